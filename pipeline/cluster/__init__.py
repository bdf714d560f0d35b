"""Ray: connecting, running shard tasks, encoder actors, progress."""
