"""One HTML file that shows an OUTPUT of token shards, its sound, and a language model."""
