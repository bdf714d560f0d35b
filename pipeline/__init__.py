"""Ray: audio shards in, token shards, tokenizers and speech out."""
