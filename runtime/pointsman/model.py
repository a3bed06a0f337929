"""Token ids in, token ids out."""

import gc
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Self, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from pointsman.backends import Backend, open_backend
from pointsman.backends.base import ExpertCounts, Routing, RoutingBackend
from pointsman.backends.choice import AnyEngine, Choice, Device, choose
from pointsman.bundle import GenerationSettings, Manifest, read_manifest
from pointsman.decoding import (
    Constraint,
    DecodingFields,
    DecodingOptions,
    DecodingState,
    Generation,
    SpecialTokens,
    TokenEvent,
    alone,
    check_streams,
    streamed,
    teacher_forced,
    with_options,
    without_options,
)
from pointsman.decoding.options import DEFAULT_ROOM, is_whole
from pointsman.errors import ClosedError, OptionsError, TextError
from pointsman.running import Ids, Request, RunningRequests, enough_memory, padded, rows_per_input, trimmed
from pointsman.scoring import Portion, shared_out

_MOST_ROWS: Final = 4096  # whose logits, in a vocabulary of 32128, take half a gigabyte
_SHOWN: Final = 40  # characters of a value that does not fit


class SwitchModel:
    """A loaded variant of a bundle.

    `generate`, `stream` and `score` check what they are given; the methods they call do not check it again. `close`
    gives back memory, as does the end of `with SwitchModel.load(...) as model:`.

    Attributes:
        bundle: the folder that it was loaded from; None of one that was put together otherwise.
        manifest: the bundle's.
        choice: which variant and device run, and why.
        special_tokens: ids that begin and end output, and those that the checkpoint forces or suppresses.
    """

    def __init__(self, manifest: Manifest, choice: Choice, backend: Backend) -> None:
        self.bundle: Path | None = None
        self.manifest, self.choice = manifest, choice
        self._backend: Backend | None = backend
        self.special_tokens = _special_tokens(manifest)
        self._load_again: Callable[[], SwitchModel] | None = None

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        device: Device = "auto",
        variant: str = "auto",
        *,
        engine: AnyEngine = "auto",
        threads: int | None = None,
        verify: bool = True,
        routing: bool = False,
        max_memory: int | None = None,
    ) -> Self:
        """Load a bundle.

        Args:
            bundle: its folder.
            device: `auto`, `cpu` or `cuda`.
            variant: `auto` or a variant's name; `choice` says what was taken.
            engine: `auto`, `onnxruntime`, `tensorrt` or `tensorrt-rtx`.
            threads: CPU threads; one for each core that the process may use where None.
            verify: whether to check the files' hashes first.
            routing: whether `routes` shall be possible; only with ONNX Runtime on the CPU.
            max_memory: bytes of resident memory that the process may have. Experts stay in their file until a token
                reaches them, and those that none has reached for longest are given back; answers are the same. For
                models larger than memory: `fused-int8` on the CPU, on Linux. None loads all experts.

        Raises:
            BundleNotFoundError: there is no bundle.
            BundleError: it is damaged, newer than this program, or lacks the variant or its plans.
            DeviceError: the device is not available to the engine, or `max_memory` is not possible on this machine, or
                less than what must stay.
            OptionsError: `threads` is not from 1 to 1024, or what was chosen shows no routing or has no `max_memory`.
        """
        folder = Path(bundle)
        manifest = read_manifest(folder)
        choice = choose(manifest, device=device, variant=variant, engine=engine)
        backend = open_backend(
            folder, manifest, choice, threads=threads, verify=verify, routing=routing, max_memory=max_memory
        )
        model = cls(manifest, choice, backend)
        model.bundle = folder
        place, where = folder.absolute(), (choice.device, choice.variant)
        again = partial(cls.load, place, *where, engine=choice.engine, threads=threads, verify=verify)
        model._load_again = partial(again, routing=routing, max_memory=max_memory)
        return model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the engine and its memory; nothing can be computed afterwards. Closing again does nothing.

        What is being computed in another thread, or is a stream that was not read to its end, goes on; its memory is
        given back when it is done.
        """
        if self._backend is not None:
            self._backend = None
            gc.collect()  # recorded runs and the graphs that they are of refer to each other

    @property
    def backend(self) -> Backend:
        """The engine that runs the variant.

        Raises:
            ClosedError: the model was closed.
        """
        if self._backend is None:
            raise ClosedError("this model is closed; load it again to use it")
        return self._backend

    def __repr__(self) -> str:
        """The call that gives such a model."""
        where = self.choice
        bundle = None if self.bundle is None else str(self.bundle)
        return f"{type(self).__name__}(bundle={bundle!r}, variant={where.variant!r}, device={where.device!r})"

    def __reduce__(self) -> tuple[Callable[[], "SwitchModel"], tuple[()]]:
        """Pickle where the model was loaded from, and how: whoever unpickles it loads it anew.

        Raises:
            OptionsError: it was not loaded from a bundle.
        """
        if self._load_again is None:
            raise OptionsError("this model was not loaded from a bundle, so it cannot be pickled; use SwitchModel.load")
        return self._load_again, ()

    @with_options
    def generate(
        self,
        input_ids: Sequence[Ids],
        options: DecodingOptions | None = None,
        *,
        constraint: Constraint | None = None,
        first_input: int = 0,
        **fields: Unpack[DecodingFields],
    ) -> list[list[Generation]]:
        """Decode every input to its end.

        Args:
            input_ids: a list of token ids per input, of any lengths, eos included. Padding is passed over: padding
                behind the last token is left out, and what stands elsewhere is not attended to.
            options: how to decode, in all respects; by default as the checkpoint's settings say, which the bundle has
                kept, and greedily where there are none.
            constraint: what output must look like, as `Infiller` makes one.
            first_input: number of the first input, where they are part of more: samples follow from it.
            fields: some of the options as keywords, in place of `options`; `help(DecodingOptions)` says what each is.

        Returns:
            for every input its `num_return_sequences` generations, best first.

        Raises:
            TextError: an input is empty, too long, or has ids that the model does not know.
            OptionsError: a keyword is no option, or they ask for what cannot be.
            DeviceError: memory does not suffice.
        """
        options = self._checked(input_ids, options, fields)
        return self.generate_unchecked(input_ids, options, constraint=constraint, first_input=first_input)

    def generate_unchecked(
        self,
        input_ids: Sequence[Ids],
        options: DecodingOptions,
        *,
        constraint: Constraint | None = None,
        first_input: int = 0,
    ) -> list[list[Generation]]:
        """`generate` for ids and options that have been through `check_ids` and `check_options`."""
        with enough_memory():
            requests = self.running(shared=False)
            (running,) = requests.join([Request(input_ids, options, constraint, first_input)])
            return alone(requests, running.search)

    @with_options
    def stream(
        self,
        input_ids: Sequence[Ids],
        options: DecodingOptions | None = None,
        *,
        constraint: Constraint | None = None,
        **fields: Unpack[DecodingFields],
    ) -> Iterator[tuple[TokenEvent, ...]]:
        """Decode greedily or by sampling, and give the tokens of each step as soon as they are known.

        Arguments and errors are those of `generate`.
        """
        return self.stream_unchecked(input_ids, self._checked(input_ids, options, fields), constraint=constraint)

    def stream_unchecked(
        self, input_ids: Sequence[Ids], options: DecodingOptions, *, constraint: Constraint | None = None
    ) -> Iterator[tuple[TokenEvent, ...]]:
        """`stream` for ids and options that have been through `check_ids` and `check_options`."""
        check_streams(options)
        with enough_memory():
            requests = self.running(shared=False)
            requests.join([Request(input_ids, options, constraint)])
        return _in_memory(streamed(requests))

    def running(self, *, shared: bool = True) -> RunningRequests:
        """Requests that are decoded together, none so far. One thread at a time may use them.

        Args:
            shared: whether there will be several at a time.
        """
        return RunningRequests(self.backend.stepper(shared=shared), self.special_tokens)

    @without_options
    def score(self, input_ids: Sequence[Ids], target_ids: Sequence[Ids]) -> list[NDArray[np.float32]]:
        """Log-probabilities of given targets (teacher forcing), in bounded memory.

        Targets are fed some at a time, and each some tokens at a time, as memory allows; that changes no result. Only
        targets longer than the variant's capacity are fed whole, since an expert then may drop tokens, which it counts
        over all that it is given at once. They begin as in training: with config.json's start token.

        Args:
            input_ids: the sources.
            target_ids: what the decoder is asked to say, eos included where it is meant: as many for every source,
                those of one source side by side. Padding behind one is no part of it.

        Returns:
            for every target the natural log-probability of each of its tokens, [tokens].

        Raises:
            OptionsError: a target is too long to be fed whole by a portable variant.
            TextError: as for `generate`, of sources and of targets, or the targets do not divide among the sources.
            ParityError: the logits are not finite.
            DeviceError: memory does not suffice.
        """
        self.check_ids(input_ids, "input")
        self.check_ids(target_ids, "target")
        if len(target_ids) % len(input_ids):
            raise TextError(
                f"{len(target_ids)} targets do not divide among {len(input_ids)} inputs; give as many for each"
            )
        with enough_memory():
            return [*self._scored(input_ids, target_ids)]

    def _scored(self, input_ids: Sequence[Ids], target_ids: Sequence[Ids]) -> Iterator[NDArray[np.float32]]:
        variant, longest = self.manifest.variants[self.choice.variant], max(map(len, target_ids))
        portion = Portion.of(
            variant,
            self.manifest.architecture,
            targets=len(target_ids),
            longest=longest,
            most_positions=self.backend.most_positions,
        )
        pad_id, start_id = self.special_tokens.pad_id, self.manifest.architecture.decoder_start_token_id
        for sources, targets in shared_out(input_ids, target_ids, portion.rows):
            state = self.encode(sources, rows=len(targets), room=longest)
            wanted = [trimmed(ids, pad_id) for ids in targets]
            ids, _ = padded(wanted, pad_id)
            logprobs = teacher_forced(state, ids, start_id, positions=portion.positions)
            yield from (row[: len(target)] for row, target in zip(logprobs, wanted, strict=True))

    @property
    def shows_routing(self) -> bool:
        """Whether `routes` is possible."""
        return isinstance(self.backend, RoutingBackend)

    @property
    def expert_counts(self) -> ExpertCounts | None:
        """How many tokens experts were sent by `generate` and `stream`; None of a model without `routing`."""
        return self.backend.counts if isinstance(self.backend, RoutingBackend) else None

    def routes(self, input_ids: Ids, output_ids: Ids) -> Routing:
        """Which expert each token goes to, where an input has this output, token by token as it was generated.

        Args:
            input_ids: of the input, eos included.
            output_ids: as `Generation.token_ids`; the last is fed to no decoder.

        Raises:
            TextError: as for `generate`, of both.
            OptionsError: the model was loaded without `routing`.
            DeviceError: memory does not suffice.
        """
        if not isinstance(self.backend, RoutingBackend):
            raise OptionsError("this model does not show where tokens go; load it with routing=True")
        self.check_ids([input_ids], "input")
        self.check_ids([output_ids], "output")
        fed = np.array([self.special_tokens.decoder_start_id, *output_ids[:-1]], np.int64)
        with enough_memory():
            return self.backend.routes(np.array([trimmed(input_ids, self.special_tokens.pad_id)], np.int64), fed)

    def encode(self, input_ids: Sequence[Ids], *, rows: int, room: int | None = None) -> DecodingState:
        """Run the encoder over inputs, which it pads on the right.

        Args:
            input_ids: ids of each input.
            rows: of the decoder, equally many for each input.
            room: tokens that will be fed to each row, at most; as many as the bundle allows where None.
        """
        pad_id, limit = self.special_tokens.pad_id, self.manifest.limits.tokens
        ids, mask = padded([trimmed(ids, pad_id) for ids in input_ids], pad_id)
        return self.backend.encode(ids, mask, rows=rows, room=limit if room is None else room)

    def check_ids(self, sequences: Sequence[Ids], what: str) -> None:
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
                raise TextError(_wrong_length(f"{what} {number}", len(ids), limit))
            wrong = [token for token in ids if not (is_whole(token) and 0 <= token < vocab)]
            if wrong:
                raise TextError(f"{what} {number} has the id {_shown(wrong[0])}; the model knows 0 to {vocab - 1}")
            if all(token == self.special_tokens.pad_id for token in ids):
                raise TextError(f"{what} {number} is nothing but padding; give its tokens")

    def check_options(self, options: DecodingOptions, inputs: int) -> None:
        """Refuse options that ask too much of the bundle for so many inputs at a time.

        Raises:
            OptionsError: more tokens than it allows, or more rows than make sense.
        """
        limit = self.manifest.limits.tokens
        if options.max_new_tokens > limit:
            raise OptionsError(
                f"max_new_tokens is {options.max_new_tokens}, and this bundle allows at most {limit}; ask for less, or "
                "export it again (`pointsman-export bundle --max-tokens`)"
            )
        each = rows_per_input(options)
        rows = inputs * each
        if rows > _MOST_ROWS:
            raise OptionsError(
                f"{rows} beams or samples at a time are too many ({each} of each input); ask for {_MOST_ROWS} at most"
            )

    def options(
        self, options: DecodingOptions | None, fields: DecodingFields, *, room: int | None = None
    ) -> DecodingOptions:
        """What a call asks for.

        Args:
            options: all of it, where they are given.
            fields: some of it; the checkpoint's settings say the rest.
            room: `max_new_tokens` where neither says it.

        Raises:
            OptionsError: both are given, or together they are out of range or contradict each other.
        """
        if options is None:
            limit = self.manifest.limits.tokens
            defaults = decoding_defaults(self.manifest)
            return DecodingOptions.over(defaults, fields, room=min(room or DEFAULT_ROOM, limit))
        if fields:
            raise OptionsError(f"options and {', '.join(fields)} are both given; put all into one of the two")
        if not isinstance(options, DecodingOptions):
            raise OptionsError(f"options are {_shown(options)}; use DecodingOptions, with their names as keywords")
        return options

    def _checked(
        self, input_ids: Sequence[Ids], options: DecodingOptions | None, fields: DecodingFields
    ) -> DecodingOptions:
        options = self.options(options, fields)
        self.check_ids(input_ids, "input")
        self.check_options(options, len(input_ids))
        return options


def _in_memory(events: Iterator[tuple[TokenEvent, ...]]) -> Iterator[tuple[TokenEvent, ...]]:
    with enough_memory():
        yield from events


def _is_list(value: object) -> bool:
    return isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, (str, bytes))


def _shown(value: object) -> str:
    shown = " ".join(repr(value).split())
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def _special_tokens(manifest: Manifest) -> SpecialTokens:
    architecture, settings = manifest.architecture, manifest.generation or GenerationSettings(source="")
    start = settings.decoder_start_token_id
    return SpecialTokens(
        pad_id=architecture.pad_token_id,
        eos_ids=settings.eos_token_id or (architecture.eos_token_id,),
        decoder_start_id=architecture.decoder_start_token_id if start is None else start,
        suppressed=settings.suppress_tokens or (),
        suppressed_first=settings.begin_suppress_tokens or (),
        bad_words=settings.bad_words_ids or (),
        forced_first=settings.forced_bos_token_id,
        forced_last=settings.forced_eos_token_id or (),
    )


def decoding_defaults(manifest: Manifest) -> DecodingFields:
    """What a checkpoint's settings say of decoding, as its bundle has kept them."""
    settings, names = manifest.generation, DecodingFields.__annotations__.keys()
    said = {name: getattr(settings, name, None) for name in names} if settings else {}
    return cast("DecodingFields", {name: value for name, value in said.items() if value is not None})


def _wrong_length(which: str, tokens: int, limit: int) -> str:
    if not tokens:
        return f"{which} has no tokens; give at least one"
    return (
        f"{which} has {tokens} tokens, and this bundle takes {limit} at most; shorten it, or export the bundle again "
        "(`pointsman-export bundle --max-tokens`)"
    )
