"""Files that subcommands write when all else is done: what could not be written is refused before."""

from pathlib import Path

from pointsman.bundle.writing import check_writable
from pointsman.errors import OutputError


def check_file(path: Path, option: str) -> None:
    """Check that a file can be put there.

    Args:
        path: the file.
        option: which names it.

    Raises:
        OutputError: it is a folder, in none, or in one that cannot be written.
    """
    if path.is_dir() or not path.parent.is_dir():
        wrong = f"{path} is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise OutputError(f"{wrong}; name a file in a folder that is there for {option}")
    check_writable(path)
