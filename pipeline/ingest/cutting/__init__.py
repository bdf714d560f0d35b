"""A recording → the pieces that are wanted of it: cut, measured, written as FLAC."""
