"""The speech language model and its trainer, which will read token shards. Nothing yet."""
