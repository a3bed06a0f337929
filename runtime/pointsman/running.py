"""Requests of one model that are decoded together: they come and go between steps."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointsman.backends.base import ASK_FOR_LESS, RequestStepper, Source
from pointsman.decoding import Constraint, DecodingOptions, Loop, Rows, Running, Search, SpecialTokens, search_of
from pointsman.errors import DeviceError

Ids = Sequence[int] | NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Request:
    """Inputs that are decoded with the same options; they have been checked.

    Attributes:
        input_ids: token ids of each input.
        options: how to decode.
        constraint: what output must look like.
        first_input: number of the first input for the caller: samples follow from it.
    """

    input_ids: Sequence[Ids]
    options: DecodingOptions
    constraint: Constraint | None = None
    first_input: int = 0

    @property
    def rows(self) -> int:
        """Of the decoder, at its beginning."""
        return len(self.input_ids) * rows_per_input(self.options)


class RunningRequests(Loop[Any]):
    """A `Loop` that encodes what its requests attend to."""

    def __init__(self, stepper: RequestStepper[Any], tokens: SpecialTokens) -> None:
        """Have no requests.

        Args:
            stepper: the engine's, of its own.
            tokens: the model's.
        """
        super().__init__(stepper)
        self._encoding, self._tokens = stepper, tokens

    @property
    def bytes(self) -> int:
        """Of host memory that is held for what is encoded and cached; 0 where the engine keeps it elsewhere."""
        return self._encoding.bytes

    @property
    def share_steps(self) -> bool:
        """Whether requests are computed together; where not, each has a step and memory of its own."""
        return self._encoding.shares_steps

    @property
    def pads_inputs(self) -> bool:
        """Whether what is encoded of each input takes as much room as that of the longest; else blocks of tokens."""
        return self._encoding.pads_inputs

    def join(self, requests: Sequence[Request]) -> list[Running[Any]]:
        """Encode the inputs of requests together, and put these in.

        Raises:
            DeviceError: memory does not suffice.
            OptionsError: an engine was not built for as many rows or tokens.
        """
        pad_id = self._tokens.pad_id
        rows = self._encoding.encode([_source(request, pad_id) for request in requests], pad_id)
        try:
            searches = [self._search(request, own) for request, own in zip(requests, rows, strict=True)]
        except BaseException:
            for own in rows:
                self._encoding.release(own)
            raise
        return [self.admit(search, own) for search, own in zip(searches, rows, strict=True)]

    def _search(self, request: Request, rows: Rows) -> Search:
        return search_of(
            len(request.input_ids),
            request.options,
            self._tokens,
            constraint=request.constraint,
            first_input=request.first_input,
            selects=rows.selects,
        )


@contextmanager
def enough_memory() -> Iterator[None]:
    """Says in a sentence that memory does not suffice for what is done within."""
    try:
        yield
    except MemoryError as error:
        raise DeviceError(f"this machine is out of memory; {ASK_FOR_LESS}") from error


def _source(request: Request, pad_id: int) -> Source:
    ids, mask = padded([trimmed(ids, pad_id) for ids in request.input_ids], pad_id)
    return Source(ids, mask, rows=request.rows, room=request.options.max_new_tokens)


def rows_per_input(options: DecodingOptions) -> int:
    """Beams or samples of each input."""
    return options.num_return_sequences if options.do_sample else options.num_beams


def padded(sequences: Sequence[Ids], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids padded on the right, [sequences, longest], and their mask: 0 for padding, wherever it stands.

    Padding on the right never takes an expert's capacity from a token, since capacity is counted from the left.
    """
    longest = max(map(len, sequences))
    ids = np.full((len(sequences), longest), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = np.asarray(sequence) != pad_id
    return ids, mask


def trimmed(ids: Ids, pad_id: int) -> Ids:
    """The ids up to the last that is no padding."""
    return ids[: 1 + int(np.flatnonzero(np.asarray(ids) != pad_id)[-1])]
