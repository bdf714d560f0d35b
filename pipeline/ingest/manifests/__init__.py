"""Manifests that others' tools write, as rows: which audio, which part of it, and what is known."""
