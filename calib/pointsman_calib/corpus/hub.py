"""Datasets on the Hugging Face hub, or on the mirror that ``HF_ENDPOINT`` names, as plain files."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Literal, get_args

from pointsman.errors import CorpusError

Split = Literal["train", "validation"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)

_DATASET_ID: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_FOLDER: Final = "en"
_FILE_SUFFIXES: Final = (".gz", ".json", ".jsonl")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a dataset, not fetched yet."""

    dataset: str
    name: str

    def __str__(self) -> str:
        return f"{self.dataset}/{self.name}"

    def fetch(self) -> Path:
        """Download the file, unless the cache has it, and return its path there.

        Raises:
            CorpusError: it cannot be fetched.
        """
        from huggingface_hub import hf_hub_download

        with _one_sentence(self.dataset):
            return Path(hf_hub_download(self.dataset, self.name, repo_type="dataset"))


def is_dataset_id(source: str | Path) -> bool:
    """Whether ``source`` reads as owner/name and not as a path to a file."""
    text = str(source)
    return isinstance(source, str) and bool(_DATASET_ID.fullmatch(text)) and not text.endswith(_FILE_SUFFIXES)


def list_files(dataset: str, split: Split) -> list[HubFile]:
    """The files of one split in English, in order.

    Raises:
        CorpusError: the dataset cannot be reached or has no such files, or huggingface_hub is not installed.
    """
    pattern = f"{_FOLDER}/c4-{split}.*.json.gz"
    with _one_sentence(dataset):
        names = sorted(name for name in _names(dataset) if fnmatchcase(name, pattern))
    if not names:
        raise CorpusError(f"{dataset} has no {pattern} on the hub; check the split, or give files")
    return [HubFile(dataset, name) for name in names]


def _names(dataset: str) -> list[str]:
    from huggingface_hub import HfApi

    api = HfApi()
    # Asked once: without a network, the listing is asked for again and again for half a minute.
    api.dataset_info(dataset, expand=["sha"])
    # One folder only: the whole of allenai/c4 has more than 25,000 files.
    entries = api.list_repo_tree(dataset, _FOLDER, repo_type="dataset")
    return [entry.path for entry in entries]


@contextmanager
def _one_sentence(dataset: str) -> Iterator[None]:
    """Turn whatever huggingface_hub raises into one sentence that says what to do."""
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise CorpusError(
            f"there is no file {dataset}, and fetching it from the hub needs huggingface_hub: "
            "pip install huggingface_hub, or give files"
        ) from error
    # The base of whichever HTTP library huggingface_hub is built on.
    transport_error: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    try:
        with _quiet():
            yield
    except errors.GatedRepoError as error:
        raise CorpusError(f"{dataset} asks for consent on the hub; give it there and set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise CorpusError(
            f"there is no file {dataset} here and no dataset {dataset} on the hub that you may see; "
            "check the name, or set HF_TOKEN"
        ) from error
    except errors.HFValidationError as error:
        raise CorpusError(f"there is no file {dataset}, and it is no dataset's id; check the name") from error
    except errors.EntryNotFoundError as error:
        raise CorpusError(f"{dataset} lacks the folder {_FOLDER} or a file of it on the hub; give files") from error
    except (transport_error, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CorpusError(
            f"there is no file {dataset}, and fetching it from the hub failed ({reason}); "
            "check the network, or download files and name them"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep huggingface_hub from reporting each failure before one sentence does."""
    from huggingface_hub.utils.logging import get_verbosity, set_verbosity

    verbosity = get_verbosity()
    set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        set_verbosity(verbosity)
