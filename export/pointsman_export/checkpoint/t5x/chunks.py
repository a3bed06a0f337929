"""Chunk files of zarr arrays, decompressed no further than they are asked for.

A gzip stream can only be read from its start. T5X cuts an array into chunks of up to 64 MiB, each of which may hold a
tile of every expert, so reading experts in turn would decompress all chunks once an expert. Hence a stream is
kept where it was left, and the next expert goes on from there: a window of 32 KiB and a block of input for each chunk,
whatever the chunk's size.
"""

import threading
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from pointsman.bundle.names import LFS_POINTER
from pointsman.errors import CheckpointError
from pointsman_export.checkpoint.stored import OpenFiles

_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_LENGTH_BYTES = 4
_BLOCK_BYTES = 1 << 15
_PIECE_BYTES = 1 << 20
_ASKED = "that its .zarray asks for; fetch both again"
_MOST_STREAMS = 2048  # above the chunks that one expert of a stacked switch-xxl kernel lies in


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk's file.

    Attributes:
        file: Where it is.
        size: Bytes when decompressed.
        used: Bytes up to the end of what the array needs; behind it lies what fills up a chunk at the array's edge.
        compressed: Whether with gzip or zlib; else the file holds the bytes as they are.
    """

    file: Path
    size: int
    used: int
    compressed: bool


class ChunkReader:
    """Reads parts of chunks, and remembers where it stands in those that it has begun. Threads may share it."""

    def __init__(self, most_streams: int = _MOST_STREAMS) -> None:
        self._most = most_streams
        self._begun: OrderedDict[tuple[Path, int], _Inflation] = OrderedDict()
        self._streams_of: dict[Path, list[_Inflation]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._begun)

    def read(self, chunk: Chunk, start: int, target: memoryview, files: OpenFiles) -> None:
        """Fill ``target`` with a chunk's bytes from ``start`` on.

        The end of what the array needs is followed to the end of the file, so that the checksum there is compared.

        Raises:
            CheckpointError: The file is gone, damaged, or holds another number of bytes.
        """
        if not chunk.compressed:
            _read_plain(chunk, start, target, files)
            return
        stream = self._take(chunk.file, start) or _begun(chunk, files)
        stream.skip(start - stream.position)
        stream.fill(target)
        if stream.position >= chunk.used:
            stream.finish()
        else:
            self._keep(stream)

    def _take(self, file: Path, start: int) -> "_Inflation | None":
        """Of the streams that stand at or before ``start``, the nearest; nobody else has it then."""
        with self._lock:
            before = [stream for stream in self._streams_of.get(file, ()) if stream.position <= start]
            if not before:
                return None
            stream = max(before, key=lambda stream: stream.position)
            self._forget(stream)
            return stream

    def _keep(self, stream: "_Inflation") -> None:
        with self._lock:
            self._begun[stream.chunk.file, id(stream)] = stream
            self._streams_of.setdefault(stream.chunk.file, []).append(stream)
            while len(self._begun) > self._most:
                self._forget(next(iter(self._begun.values())))

    def _forget(self, stream: "_Inflation") -> None:
        file = stream.chunk.file
        del self._begun[file, id(stream)]
        self._streams_of[file].remove(stream)
        if not self._streams_of[file]:
            del self._streams_of[file]


def _check_fetched(chunk: Chunk, files: OpenFiles) -> None:
    if files.read_up_to(chunk.file, 0, len(LFS_POINTER)).tobytes() == LFS_POINTER:
        raise CheckpointError(f"{chunk.file} is a Git LFS pointer; run `git lfs pull`")


def _read_plain(chunk: Chunk, start: int, target: memoryview, files: OpenFiles) -> None:
    _check_fetched(chunk, files)
    if files.read_up_to(chunk.file, chunk.size, 1).size:
        raise CheckpointError(f"{chunk.file} holds more than the {chunk.size} bytes {_ASKED}")
    target[:] = files.read(chunk.file, start, len(target)).data


def _begun(chunk: Chunk, files: OpenFiles) -> "_Inflation":
    """A stream at its first byte.

    A gzip file ends in its length. Where that speaks against the chunk's, the file is decompressed to say what is wrong
    with it before any of its bytes are taken for numbers.
    """
    _check_fetched(chunk, files)
    if files.read_up_to(chunk.file, 0, len(_GZIP_MAGIC)).tobytes() == _GZIP_MAGIC:
        place = max(0, chunk.file.stat().st_size - _GZIP_LENGTH_BYTES)
        said = int.from_bytes(files.read_up_to(chunk.file, place, _GZIP_LENGTH_BYTES).tobytes(), "little")
        if said != chunk.size % (1 << 8 * _GZIP_LENGTH_BYTES):
            _Inflation(chunk, files).finish()
    return _Inflation(chunk, files)


class _Inflation:
    """A chunk that is being decompressed, from its first byte on."""

    def __init__(self, chunk: Chunk, files: OpenFiles) -> None:
        self.chunk, self.position = chunk, 0
        self._files, self._offset = files, 0
        self._input = b""
        self._stream = zlib.decompressobj(_GZIP_OR_ZLIB)

    def fill(self, target: memoryview) -> None:
        """Decompress the next bytes into ``target``."""
        filled = 0
        while filled < len(target):
            piece = self._next(len(target) - filled)
            target[filled : filled + len(piece)] = piece
            filled += len(piece)

    def skip(self, count: int) -> None:
        """Decompress the next ``count`` bytes for nothing."""
        while count:
            count -= len(self._next(count))

    def finish(self) -> None:
        """Decompress the rest, which ends in a checksum.

        Raises:
            CheckpointError: The file holds more or fewer bytes, or the checksum is another.
        """
        self.skip(self.chunk.size - self.position)
        while not self._stream.eof:
            if self._inflate(1):
                raise CheckpointError(f"{self.chunk.file} holds more than the {self.chunk.size} bytes {_ASKED}")
            self._feed()
        if self._stream.unused_data or self._files.read_up_to(self.chunk.file, self._offset, 1).size:
            raise CheckpointError(f"{self.chunk.file} has bytes after its end; fetch it again")

    def _next(self, most: int) -> bytes:
        """One byte or more, at most ``most``."""
        while not (piece := self._inflate(min(most, _PIECE_BYTES))):
            if self._stream.eof:
                raise CheckpointError(
                    f"{self.chunk.file} holds {self.position} bytes of the {self.chunk.size} {_ASKED}"
                )
            self._feed()
        self.position += len(piece)
        return piece

    def _inflate(self, most: int) -> bytes:
        try:
            piece = self._stream.decompress(self._input, most)
        except zlib.error as error:
            raise CheckpointError(f"{self.chunk.file} is damaged ({error}); fetch it again") from error
        self._input = self._stream.unconsumed_tail
        return piece

    def _feed(self) -> None:
        """Read more of the file where the stream wants more; at its end there is none to want."""
        if self._stream.eof:
            return
        block = self._files.read_up_to(self.chunk.file, self._offset, _BLOCK_BYTES)
        if not block.size:
            raise CheckpointError(f"{self.chunk.file} is cut after {self._offset} bytes; fetch it again")
        self._offset += block.size
        self._input = block.tobytes()
