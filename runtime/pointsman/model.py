"""Token ids in, token ids out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from pointsman.backends import Backend, DecodingState, SelectingState, open_backend
from pointsman.backends.base import ASK_FOR_LESS
from pointsman.backends.choice import Choice, choose
from pointsman.bundle import Architecture, Manifest, read_manifest
from pointsman.decoding import (
    Constraint,
    DecodingOptions,
    Generation,
    SpecialTokens,
    StepFunction,
    TokenEvent,
    decode,
    stream,
)
from pointsman.decoding.options import is_whole
from pointsman.decoding.scores import checked_logits, log_normalizers
from pointsman.errors import DeviceError, OptionsError, TextError

Ids = Sequence[int] | NDArray[np.integer[Any]]

_MOST_ROWS: Final = 4096  # whose logits, in a vocabulary of 32128, take half a gigabyte
_SHOWN: Final = 40  # characters of a value that does not fit


class SwitchModel:
    """A loaded variant of a bundle.

    Attributes:
        manifest: the bundle's.
        choice: which variant and device run, and why.
        backend: the engine that runs them.
    """

    def __init__(self, manifest: Manifest, choice: Choice, backend: Backend) -> None:
        self.manifest, self.choice, self.backend = manifest, choice, backend
        self.special_tokens = _special_tokens(manifest.architecture)

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        device: str = "auto",
        variant: str = "auto",
        *,
        engine: str = "auto",
        threads: int | None = None,
        verify: bool = True,
    ) -> Self:
        """Load a bundle.

        Args:
            bundle: its folder.
            device: `auto`, `cpu` or `cuda`.
            variant: `auto` or a variant's name; `choice` says what was taken.
            engine: `auto`, `onnxruntime`, `tensorrt` or `tensorrt-rtx`.
            threads: CPU threads; the engine's default where None.
            verify: whether to check the files' hashes first.

        Raises:
            BundleNotFoundError: there is no bundle.
            BundleError: it is damaged, newer than this program, or lacks the variant or its plans.
            DeviceError: the device is not available to the engine.
            OptionsError: `threads` is not from 1 to 1024.
        """
        folder = Path(bundle)
        manifest = read_manifest(folder)
        choice = choose(manifest, device=device, variant=variant, engine=engine)
        return cls(manifest, choice, open_backend(folder, manifest, choice, threads=threads, verify=verify))

    def generate(
        self,
        input_ids: Sequence[Ids],
        options: DecodingOptions | None = None,
        *,
        constraint: Constraint | None = None,
        first_input: int = 0,
    ) -> list[list[Generation]]:
        """Decode every input to its end.

        Args:
            input_ids: a list of token ids per input, of any lengths, eos included.
            options: how to decode; greedily by default.
            constraint: what output must look like, as `Infiller` makes one.
            first_input: number of the first input, where they are part of more: samples follow from it.

        Returns:
            for every input its `num_return_sequences` generations, best first.

        Raises:
            TextError: an input is empty, too long, or has ids that the model does not know.
            OptionsError: `options` ask for what cannot be.
            DeviceError: memory does not suffice.
        """
        options = checked_options(options)
        with _memory():
            step = self._step(input_ids, options)
            return decode(
                step, len(input_ids), options, self.special_tokens, constraint=constraint, first_input=first_input
            )

    def stream(
        self,
        input_ids: Sequence[Ids],
        options: DecodingOptions | None = None,
        *,
        constraint: Constraint | None = None,
    ) -> Iterator[tuple[TokenEvent, ...]]:
        """Decode greedily or by sampling, and give the tokens of each step as soon as they are known.

        Arguments and errors are those of `generate`.
        """
        options = checked_options(options)
        with _memory():
            step = self._step(input_ids, options)
        return _in_memory(stream(step, len(input_ids), options, self.special_tokens, constraint=constraint))

    def score(self, input_ids: Sequence[Ids], target_ids: Sequence[Ids]) -> list[NDArray[np.float32]]:
        """Log-probabilities of given targets, all positions at once (teacher forcing).

        Args:
            input_ids: the sources; each is encoded once.
            target_ids: what the decoder is asked to say, eos included where it is meant: as many for every source,
                those of one source side by side.

        Returns:
            for every target the natural log-probability of each of its tokens, [tokens].

        Raises:
            TextError: as for `generate`, of sources and of targets, or the targets do not divide among the sources.
            ParityError: the logits are not finite.
            DeviceError: memory does not suffice.
        """
        self.check(input_ids, "input")
        self.check(target_ids, "target")
        if len(target_ids) % len(input_ids):
            raise TextError(
                f"{len(target_ids)} targets do not divide among {len(input_ids)} inputs; give as many for each"
            )
        with _memory():
            return self._score(input_ids, target_ids)

    def _score(self, input_ids: Sequence[Ids], target_ids: Sequence[Ids]) -> list[NDArray[np.float32]]:
        state = self.encode(input_ids, rows=len(target_ids))
        targets, _ = padded(target_ids, self.special_tokens.pad_id)
        fed = np.roll(targets, 1, axis=1)
        fed[:, 0] = self.special_tokens.decoder_start_id
        logits = state.step(fed, np.arange(len(fed)))
        for position in range(logits.shape[1]):
            checked_logits(logits[:, position], position + 1)
        normalizers = log_normalizers(logits.reshape(-1, logits.shape[2])).reshape(targets.shape)
        logprobs = np.take_along_axis(logits, targets[:, :, None], axis=2)[:, :, 0] - normalizers
        return [row[: len(target)] for row, target in zip(logprobs, target_ids, strict=True)]

    def start(self, input_ids: Sequence[Ids], *, rows_per_input: int) -> StepFunction:
        """Encode, and return the step function that decodes `rows_per_input` rows of every input."""
        self.check(input_ids, "input")
        return self._started(input_ids, rows_per_input)

    def _started(self, input_ids: Sequence[Ids], rows_per_input: int) -> StepFunction:
        state = self.encode(input_ids, rows=len(input_ids) * rows_per_input)
        if isinstance(state, SelectingState):
            return _SelectingStep(state, self.manifest.architecture.vocab_size)
        return _Step(state)

    def _step(self, input_ids: Sequence[Ids], options: DecodingOptions) -> StepFunction:
        self.check(input_ids, "input")
        limit = self.manifest.limits.tokens
        if options.max_new_tokens > limit:
            raise OptionsError(f"max_new_tokens is {options.max_new_tokens}; this bundle allows at most {limit}")
        rows_per_input = _rows_per_input(options)
        rows = len(input_ids) * rows_per_input
        if rows > _MOST_ROWS:
            raise OptionsError(
                f"{rows} beams or samples at a time are too many ({rows_per_input} of each input); "
                f"ask for {_MOST_ROWS} at most"
            )
        return self._started(input_ids, rows_per_input)

    def encode(self, input_ids: Sequence[Ids], *, rows: int) -> DecodingState:
        """Run the encoder over right-padded inputs."""
        return self.backend.encode(*padded(input_ids, self.special_tokens.pad_id), rows=rows)

    def check(self, sequences: Sequence[Ids], what: str) -> None:
        """Refuse sequences that the model cannot take.

        Raises:
            TextError: naming the sequence.
        """
        vocab, limit = self.manifest.architecture.vocab_size, self.manifest.limits.tokens
        if not _is_list(sequences):
            raise TextError(f"{what}s are {_shown(sequences)}; give a list with a list of token ids for each {what}")
        if not len(sequences):
            raise TextError(f"there is no {what}; give at least one")
        for number, ids in enumerate(sequences):
            if not _is_list(ids):
                raise TextError(f"{what} {number} is {_shown(ids)}; give a list of token ids")
            if not 0 < len(ids) <= limit:
                raise TextError(f"{what} {number} has {len(ids)} tokens; give between 1 and {limit}")
            wrong = [token for token in ids if not (is_whole(token) and 0 <= token < vocab)]
            if wrong:
                raise TextError(f"{what} {number} has the id {_shown(wrong[0])}; the model knows 0 to {vocab - 1}")


class _Step:
    """Decoding's view of a request: one position a step."""

    def __init__(self, state: DecodingState) -> None:
        self._state = state

    def __call__(self, token_ids: NDArray[np.int64], source_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._state.step(token_ids[:, None], source_rows)[:, -1]


class _SelectingStep(_Step):
    """The same where the engine selects."""

    def __init__(self, state: SelectingState, vocabulary: int) -> None:
        super().__init__(state)
        self.vocabulary, self.most_selected = vocabulary, state.most_selected
        self.select = state.select


def padded(sequences: Sequence[Ids], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids padded on the right, [sequences, longest], and their mask.

    Padding on the right never takes an expert's capacity from a token, since capacity is counted from the left.
    """
    longest = max(map(len, sequences))
    ids = np.full((len(sequences), longest), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask


@contextmanager
def _memory() -> Iterator[None]:
    """Tells in a sentence that memory does not suffice for what is done within."""
    try:
        yield
    except MemoryError as error:
        raise DeviceError(f"this machine is out of memory; {ASK_FOR_LESS}") from error


def _in_memory(events: Iterator[tuple[TokenEvent, ...]]) -> Iterator[tuple[TokenEvent, ...]]:
    with _memory():
        yield from events


def checked_options(options: DecodingOptions | None) -> DecodingOptions:
    """The options, or greedy search where there are none.

    Raises:
        OptionsError: they are something else, such as a dict.
    """
    if options is not None and not isinstance(options, DecodingOptions):
        raise OptionsError(f"options are {_shown(options)}; use DecodingOptions, with their names as keywords")
    return options or DecodingOptions()


def _is_list(value: object) -> bool:
    return isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, (str, bytes))


def _shown(value: object) -> str:
    shown = " ".join(repr(value).split())
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def _rows_per_input(options: DecodingOptions) -> int:
    return options.num_return_sequences if options.do_sample else options.num_beams


def _special_tokens(architecture: Architecture) -> SpecialTokens:
    return SpecialTokens(
        pad_id=architecture.pad_token_id,
        eos_id=architecture.eos_token_id,
        decoder_start_id=architecture.decoder_start_token_id,
    )
