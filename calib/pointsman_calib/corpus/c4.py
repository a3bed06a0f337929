"""C4 as it is published: gzipped files of one JSON record a line, ``{"text": ..., "timestamp": ..., "url": ...}``.

allenai/c4 names them ``en/c4-train.00000-of-01024.json.gz`` (356,317 documents, 320 MB) and so on. Only ``text`` is
read. A corpus is read as a stream, one line in memory at a time; files on the hub are fetched one by one, when the
stream comes to them.
"""

import glob
import gzip
import hashlib
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

from pointsman.errors import CorpusError
from pointsman_calib.corpus import hub

_GZIP_MAGIC: Final = b"\x1f\x8b"
_LONGEST_LINE: Final = 1 << 26  # bytes; C4's longest documents have about a million characters
_FORM: Final = 'a corpus has one JSON object a line, such as {"text": "Once upon a time."}'


@dataclass(frozen=True, slots=True)
class Document:
    """One web page.

    Attributes:
        text: its text.
        place: file and line it was read from, for messages.
    """

    text: str
    place: str

    @property
    def sha256(self) -> str:
        """Hex digest of the text in UTF-8: what tells documents apart, wherever they were read."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_documents(sources: Iterable[str | Path], *, split: hub.Split = "train") -> Iterator[Document]:
    """Stream the documents of a corpus, in order.

    Args:
        sources: files (gzipped or plain), patterns such as ``c4/c4-train.*.json.gz``, and ids of datasets on the hub
            that are laid out as C4 is, such as ``allenai/c4``. A file that several name is read once.
        split: which files of a dataset on the hub; files here are read whatever they hold.

    Raises:
        CorpusError: at once, if a source names no file; while reading, if a file is no gzip or cut off, a line is no
            record (the message names file and line), or there is no document at all.
    """
    files = list(dict.fromkeys(file for source in sources for file in _files_of(source, split)))
    if not files:
        raise CorpusError("no corpus was named; give files of JSON lines, patterns, or allenai/c4")
    return _documents(files)


def count_documents(sources: Iterable[str | Path], most: int) -> int | None:
    """How many lines with a document the files of a corpus have.

    Args:
        sources: as for `read_documents`.
        most: counting ends behind so many, at ``most + 1``.

    Returns:
        the number; None where files lie on the hub, from which no more than is used is fetched.

    Raises:
        CorpusError: as `read_documents`.
    """
    files = dict.fromkeys(file for source in sources for file in _local_files(source))
    if None in files:
        return None
    lines = (line for file in files if file is not None for line in _lines(file) if line.strip())
    return sum(1 for _ in itertools.islice(lines, most + 1))


def _local_files(source: str | Path) -> list[Path] | list[None]:
    """The files of a source that was read; None for those on the hub."""
    path = Path(source)
    if path.is_file():
        return [path]
    return _matches(str(source)) if glob.has_magic(str(source)) else [None]


def _files_of(source: str | Path, split: hub.Split) -> list[Path | hub.HubFile]:
    path = Path(source)
    if path.is_dir():
        raise CorpusError(f"{path} is a folder; name its files, for example {path}/c4-{split}.*.json.gz")
    if path.is_file():
        return [path]
    if glob.has_magic(str(source)):
        return [*_matches(str(source))]
    if hub.is_dataset_id(source):
        return [*hub.list_files(str(source), split)]
    raise CorpusError(
        f"there is no file {source}; give files of JSON lines, patterns, or a dataset such as allenai/c4 on the hub"
    )


def _matches(pattern: str) -> list[Path]:
    paths = sorted(path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file())  # noqa: PTH207 - takes absolute patterns
    if not paths:
        raise CorpusError(f"no file matches {pattern}; check the folder and the pattern")
    return paths


def _documents(files: list[Path | hub.HubFile]) -> Iterator[Document]:
    found = False
    for file in files:
        path = file.fetch() if isinstance(file, hub.HubFile) else file
        for number, line in enumerate(_lines(path), start=1):
            if line.strip():
                yield _document(line, f"{path}:{number}")
                found = True
    if not found:
        raise CorpusError(f"{', '.join(map(str, files[:3]))}: no documents; {_FORM}")


def _document(line: bytes, place: str) -> Document:
    try:
        record = json.loads(line)
    except UnicodeDecodeError as error:
        raise CorpusError(f"{place} is not UTF-8 (byte 0x{error.object[error.start]:02X}); {_FORM}") from error
    except RecursionError as error:
        raise CorpusError(f"{place} is nested too deeply; {_FORM}") from error
    except ValueError as error:
        raise CorpusError(f"{place} is {_no_json(line, error)}; {_FORM}") from error
    if not isinstance(record, dict):
        raise CorpusError(f"{place} is no JSON object; {_FORM}")
    if "text" not in record:
        raise CorpusError(f'{place} has no "text"; {_FORM}')
    text = record["text"]
    if not isinstance(text, str):
        raise CorpusError(f'the "text" of {place} is no string; {_FORM}')
    if not _is_unicode(text):
        raise CorpusError(f"{place} holds half of a surrogate pair, so it is not Unicode text; repair or drop the line")
    return Document(text, place)


def _no_json(line: bytes, error: ValueError) -> str:
    """What a line is that cannot be parsed: most are of a file of plain text."""
    if line.lstrip().startswith(b"{"):
        return f"broken JSON ({str(error).partition(':')[0]})"
    return "plain text, no JSON"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lines(path: Path) -> Iterator[bytes]:
    number = 0
    try:
        with path.open("rb") as file, _decompressed(file, path) as stream:
            while line := stream.readline(_LONGEST_LINE):
                number += 1
                if len(line) == _LONGEST_LINE:
                    raise CorpusError(f"{path}:{number} is longer than {_LONGEST_LINE >> 20} MiB; {_FORM}")
                yield line
    except EOFError as error:
        raise CorpusError(f"{path} is cut off after line {number}; download it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise CorpusError(f"{path} is damaged after line {number} ({error}); download it again") from error
    except OSError as error:
        raise CorpusError(f"cannot read {path} ({error.strerror}); check the path and its permissions") from error


def _decompressed(file: BinaryIO, path: Path) -> BinaryIO:
    start = file.read(len(_GZIP_MAGIC))
    file.seek(0)
    if start == _GZIP_MAGIC:
        return cast("BinaryIO", gzip.GzipFile(fileobj=file))
    if path.suffix == ".gz":
        raise CorpusError(f"{path} is not gzip, though its name says so; download it again, or rename it to .json")
    return file
