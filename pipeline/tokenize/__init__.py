"""Tokenizing, detokenizing, ingesting and importing: each a job and its shard task."""
