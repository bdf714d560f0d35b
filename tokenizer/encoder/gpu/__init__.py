"""WavLM on a GPU: utterances side by side in one matrix, in functions that are compiled."""
