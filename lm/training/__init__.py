"""Training a language model on token shards."""
