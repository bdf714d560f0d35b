"""Faults on purpose, a module for each kind: `make faults` runs them all and prints a table.

Each module has `run(world, ...)`, which yields a Result for each fault; test_faults.py runs a short
form of each.
"""
