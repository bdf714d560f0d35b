"""Containers of audio: where the sound lies in a file, and whether all of it is there.

libsndfile shortens files that are cut, stops where a stale header says so, and reads only the first
of several joined streams, each without an error. So each family of containers has a module here
that reads the container's own structure and cuts a file into parts that can be decoded whole.
"""
