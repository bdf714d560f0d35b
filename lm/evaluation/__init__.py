"""Evaluation of a language model: bits per token, and accuracy on pairs of recordings."""
