"""Benchmarks: commands that print a table."""
