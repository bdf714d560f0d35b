"""Sources as streams of recordings: audio files, tars, Parquet tables."""
