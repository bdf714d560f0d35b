"""What the commands share: flags, errors as exit statuses, tables, and the `wavmill` command."""
