"""What the training jobs share: their flags, and what they do with them."""
