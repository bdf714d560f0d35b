"""Scores of speech by others' models and libraries, as papers report them; no Ray is needed."""
