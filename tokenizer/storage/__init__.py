"""Files: folders on any filesystem, tokenizer and encoder folders, tars and token shards."""
