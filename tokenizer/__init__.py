"""The tokenizer: WavLM, codebook and windows, in plain PyTorch. No Ray, FAISS or storage."""
