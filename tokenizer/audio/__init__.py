"""Audio: decoding, windows, augmentation."""
