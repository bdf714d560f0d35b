"""One training loop, optimiser module and checkpoint layout for all models."""
