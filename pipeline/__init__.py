"""Ray: audio shards in, token shards out, and the features that k-means learns from."""
