"""Training on audio shards: codebooks, distillation, vocoders, encoders."""
