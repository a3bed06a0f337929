"""Reading the JSON files of a vocabulary."""

import json
from pathlib import Path
from typing import Any

from pointsman.errors import TokenizerError


def read_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON file that holds an object.

    Returns:
        The object; None where there is no such file.

    Raises:
        TokenizerError: The file cannot be read, or holds anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"cannot read {path} ({error}): fetch it again") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} is no JSON object: fetch it again")
    return content
