"""Where the vocabulary of a checkpoint lies: in its folder, or where the caller says."""

from collections.abc import Sequence
from pathlib import Path

from pointsman.bundle.names import SPIECE, TOKENIZER_JSON
from pointsman.errors import TokenizerError
from pointsman_export.checkpoint import hub

_FILES = (TOKENIZER_JSON, SPIECE)
_SUFFIXES = (".model", ".json")


def locate(folders: Sequence[Path], tokenizer: str | Path | None, *, token: str | None = None) -> Path:
    """Find the vocabulary's folder or file.

    Args:
        folders: Where a checkpoint's files are, the first that has one before the others.
        tokenizer: A file, a folder, or the id of a model on the hub; the checkpoint's own by default.
        token: Access token for the hub.

    Returns:
        A folder that holds a vocabulary, or a file.

    Raises:
        TokenizerError: There is no vocabulary.
        CheckpointError: It cannot be fetched from the hub.
    """
    if tokenizer is None:
        found = next(filter(_is_in, folders), None)
        if found is None:
            raise TokenizerError(
                f"{folders[-1]} has no vocabulary ({' or '.join(_FILES)}); say where one is with `tokenizer`: "
                "a file, a folder or a model's id on the hub"
            )
        return found
    path = Path(tokenizer)
    if not path.exists():
        if path.suffix in _SUFFIXES:
            raise TokenizerError(f"there is no file {path}; check what `tokenizer` gives")
        path = hub.download_vocabulary(tokenizer, token=token)
    if path.is_dir() and not _is_in(path):
        raise TokenizerError(f"{tokenizer} has no vocabulary ({' or '.join(_FILES)}); check what `tokenizer` gives")
    return path


def _is_in(folder: Path) -> bool:
    return any((folder / name).exists() for name in _FILES)
