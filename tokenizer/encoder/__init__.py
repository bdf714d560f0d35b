"""Encoders: WavLM, its causal form, MFCCs, and what trains them."""
