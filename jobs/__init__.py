"""What a person runs: a file a command."""
