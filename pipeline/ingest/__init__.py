"""Audio as people have it → audio shards: sources, cutting, filters, and an account of each."""
