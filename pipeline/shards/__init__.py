"""Audio shards: finding, reading and reporting on them."""
