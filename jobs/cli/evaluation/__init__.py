"""The commands of jobs/evaluate.py, a file each: its flags, and what runs it."""
