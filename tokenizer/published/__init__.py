"""Published weights: others' checkpoints as tokenizers, and ours in their layout."""
