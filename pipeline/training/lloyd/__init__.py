"""Lloyd's iterations over all frames of all shards, for codebooks that no sample can fit."""
