"""From features to tokens and back: compressor, codebook, decompressor, vocoder."""
