"""One small JSON file of a folder that somebody gave: a model's configuration."""

import json
from pathlib import Path
from typing import Any

from tokenizer.errors import UsageError, one_line


def read_object(file: Path, error: type[UsageError] = UsageError) -> dict[str, Any]:
    """The JSON object in a local file.

    error: what is raised, with the file's name, where there is no such file, it is not readable, or
    it holds something else.
    """
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError as reason:
        raise error(f"it has no readable {file.name}") from reason
    except (OSError, ValueError) as reason:
        raise error(f"it has no readable {file.name}: {one_line(reason)}") from reason
    if not isinstance(content, dict):
        raise error(f"its {file.name} is not a JSON object")
    return content
