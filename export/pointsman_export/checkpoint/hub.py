"""Checkpoints on the Hugging Face hub, or on the mirror that ``HF_ENDPOINT`` names."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pointsman.bundle.names import SPIECE, TOKENIZER_CONFIG, TOKENIZER_JSON
from pointsman.errors import CheckpointError
from pointsman_export.checkpoint import layout

_SMALL_FILES = (
    "config.json",
    layout.ADAPTER_CONFIG,
    "generation_config.json",
    SPIECE,
    TOKENIZER_JSON,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
)
_MODEL_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# The base of whichever HTTP library huggingface_hub is built on (httpx, later httpx2); timeouts derive from it.
_TRANSPORT_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]


def download(source: str | Path, *, revision: str | None, token: str | None, cache_dir: str | Path | None) -> Path:
    """Fetch what an export needs of a model: config, tokenizer, and the weights in one layout.

    What is in the cache already is not fetched again, and without a network the cache alone serves.

    Args:
        source: The model's id.
        revision: Branch, tag or commit.
        token: Access token; the one that `huggingface_hub` finds when None.
        cache_dir: Where downloads are kept; `huggingface_hub`'s cache when None.

    Returns:
        The folder of the model's files in the cache.

    Raises:
        CheckpointError: ``source`` is no model's id, or the model cannot be fetched.
    """
    model_id = _model_id(source)
    where: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache_dir}
    with _one_sentence(model_id, revision):
        folder = _snapshot(model_id, [*_SMALL_FILES, "*" + layout.INDEX_SUFFIX], **where)
        names = _published(model_id, revision, token)
        if names is not None:
            snapshot_download(model_id, allow_patterns=_weight_files(model_id, folder, names), **where)
    return folder


def _snapshot(model_id: str, patterns: list[str], **where: Any) -> Path:  # noqa: ANN401 - passed on as they are
    """The folder of a model's files in the cache, fetched where there is a network.

    Without one, the cache serves as it is: files that it knows of and does not hold may not be needed.
    """
    try:
        return Path(snapshot_download(model_id, allow_patterns=patterns, **where))
    except LocalEntryNotFoundError as error:
        folder = getattr(error, "snapshot_path", None)  # of its subclass for a cache that is not complete
        if folder is None:
            raise
        return Path(folder)


def download_vocabulary(source: str | Path, *, token: str | None) -> Path:
    """Fetch a model's vocabulary, and not its weights.

    Args:
        source: The model's id.
        token: Access token; the one that `huggingface_hub` finds when None.

    Returns:
        The folder of the model's small files in the cache.

    Raises:
        CheckpointError: ``source`` is no model's id, or the model cannot be fetched.
    """
    model_id = _model_id(source)
    with _one_sentence(model_id, None):
        return _snapshot(model_id, list(_SMALL_FILES), token=token)


def _model_id(source: str | Path) -> str:
    model_id = str(source)
    if isinstance(source, Path) or not _MODEL_ID.fullmatch(model_id):
        raise CheckpointError(f"there is no folder {model_id}; give a checkpoint's folder or a model's id on the hub")
    return model_id


def _published(model_id: str, revision: str | None, token: str | None) -> list[str] | None:
    """Names of the model's files on the hub; None when the hub cannot be reached and the cache has to do."""
    try:
        return HfApi(token=token).list_repo_files(model_id, revision=revision)
    except (_TRANSPORT_ERROR, ConnectionError):
        return None


def _weight_files(model_id: str, folder: Path, published: Collection[str]) -> list[str]:
    adapter = [name for name in layout.ADAPTER_WEIGHTS if name in published and layout.ADAPTER_CONFIG in published][:1]
    name = layout.preferred(published)
    if name is None:
        if adapter:
            return adapter
        raise layout.absent(model_id, {path.partition("/")[0] for path in published})
    own = sorted(set(layout.shard_of(folder / name).values())) if name.endswith(layout.INDEX_SUFFIX) else [name]
    return [*own, *adapter]


@contextmanager
def _one_sentence(model_id: str, revision: str | None) -> Iterator[None]:
    """Turn whatever `huggingface_hub` raises into one sentence that says what to do."""
    try:
        yield
    except GatedRepoError as error:
        raise CheckpointError(f"{model_id} asks for consent on the hub; give it there and pass a token") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder {model_id} here and no model {model_id} on the hub that this token may see; "
            "check the name, or pass a token"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{model_id} has no revision {revision} on the hub; check its name") from error
    except HFValidationError as error:
        raise CheckpointError(f"there is no folder {model_id}, and it is no model's id; check the name") from error
    except (_TRANSPORT_ERROR, OSError) as error:
        raise CheckpointError(
            f"there is no folder {model_id}, and fetching it from the hub failed ({_first_line(error)}); "
            "check the network, or download it and give its folder"
        ) from error


def _first_line(error: Exception) -> str:
    """Without what a library that tries again puts before it (`Got: `)."""
    return next(iter(str(error).splitlines()), type(error).__name__).removeprefix("Got: ")
