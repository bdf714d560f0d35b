"""Flags of the jobs that show what was made, and what these jobs do with them."""
