"""Training speech from synthesisers: see job.py."""
