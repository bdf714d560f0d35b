"""Speech that the project makes for training, from synthesisers, prompts and games: see job.py."""
