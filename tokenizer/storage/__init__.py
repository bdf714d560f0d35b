"""Files: folders on any filesystem, tokenizer folders, token shards."""
