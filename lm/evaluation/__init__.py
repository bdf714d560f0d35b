"""Scoring with a language model: bits per token, pairs of recordings."""
