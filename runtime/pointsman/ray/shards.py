"""How files are filled: an actor's work, which is a shard of a file's rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

from pointsman.decoding import DecodingFields
from pointsman.errors import BundleError, OptionsError, TextError
from pointsman.infill import Fill, Infiller
from pointsman.infill.origin import content_of
from pointsman.infill.outcomes import outcomes_of, request_of
from pointsman.infill.requests import Request
from pointsman.ray.bundles import local_bundle
from pointsman.ray.rows import Column, NoText, Part, read_rows
from pointsman.ray.sources import Origin, remember

Outcome = Fill | str | None
Given = TypeVar("Given", Request | None, Fill)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """How files are filled.

    Attributes:
        bundle: Its folder, which every machine must have, or a URL that fsspec knows.
        column: Where the texts are.
        filled: The column for the best fill; `<filled>_score` gets its score. Both are null where the text is empty.
        variant: Which variant runs.
        threads: CPU threads of an actor; one for each core that the process may use where None.
        max_memory: Bytes of resident memory that an actor may have; see `SwitchModel.load`.
        batch_size: Texts at a time.
        rows: Of a file that make a shard.
        on_error: What a row that cannot be filled does: end the run, or get no fill, and the reason in a further column
            `<filled>_error`, which is null for all others.
        fields: Decoding options; samples follow from a row's number in its file, and from a seed that is drawn where
            none is given.

    Raises:
        OptionsError: `num_return_sequences` is among them and not 1: the best fill alone is written.
    """

    bundle: str
    column: str = "text"
    filled: str = "filled"
    variant: str = "auto"
    threads: int | None = None
    max_memory: int | None = None
    batch_size: int = 32
    rows: int = 10_000
    on_error: Literal["fail", "skip"] = "fail"
    fields: DecodingFields

    def __post_init__(self) -> None:
        """Refuse what would have no effect."""
        check_one_fill(self.fields)


def check_one_fill(fields: DecodingFields) -> None:
    """Refuse to ask for fills that would not be written.

    Raises:
        OptionsError: `num_return_sequences` is other than 1.
    """
    count = fields.get("num_return_sequences", 1)
    if count != 1:
        raise OptionsError(f"num_return_sequences is {count!r} and the best fill alone is written; leave it out")


@dataclass(frozen=True, slots=True)
class Shard:
    """Some rows of a file, and where they go.

    Attributes:
        part: The rows.
        target: The shard's own file.
        bad: How many of the rows could not be filled, once it is written.
    """

    part: Part
    target: Path
    bad: int = 0


class Filler:
    """An actor, which loads its model once."""

    def __init__(self, filling: Filling, content: str) -> None:
        """Keep what is asked for, and what the bundle must hold."""
        self._filling, self._content = filling, content

    def make(self, shard: Shard) -> Shard:
        """Fill a shard, whole or not at all.

        Raises:
            TextError: A row cannot be filled, unless such rows are skipped; the file cannot be read; or it has a column
                of a name that the fills are to get.
            BundleError: The bundle cannot be loaded, or is another here; or another error, as `Infiller.load`.
            OutputError: The shard cannot be written.
        """
        # The model first: were it loaded for a row, what is wrong with it would seem to be wrong with the row.
        infiller, filling, rows = self._infiller, self._filling, read_rows(shard.part)
        names = (filling.filled, f"{filling.filled}_score", f"{filling.filled}_error")
        if taken := rows.taken(names):
            raise TextError(f"{shard.part.source} has a column {taken} already; choose another name with `filled`")
        outcomes = list(self._outcomes(infiller, rows.texts(filling.column), shard.part))
        rows.write(shard.target, list(self._columns(names, outcomes)))
        bad = sum(isinstance(outcome, str) for outcome in outcomes)
        remember(shard.target, Origin(len(outcomes), rows.digest(), bad))
        return replace(shard, bad=bad)

    @cached_property
    def _infiller(self) -> Infiller:
        """Loaded here and not when the actor is made: what that raises reaches nobody."""
        filling = self._filling
        infiller = Infiller.load(
            local_bundle(filling.bundle),
            variant=filling.variant,
            threads=filling.threads,
            max_memory=filling.max_memory,
        )
        if content_of(infiller.model.manifest, filling.variant) != self._content:
            raise BundleError(
                f"the bundle at {filling.bundle} is not the one that this run began with; put that there on every "
                "machine"
            )
        return infiller

    def _columns(self, names: Sequence[str], outcomes: Sequence[Outcome]) -> Iterator[Column]:
        fills = [outcome if isinstance(outcome, Fill) else None for outcome in outcomes]
        yield Column(names[0], str, [fill.text if fill else None for fill in fills])
        yield Column(names[1], float, [fill.score if fill else None for fill in fills])
        yield Column(names[2], str, [outcome if isinstance(outcome, str) else None for outcome in outcomes])

    def _outcomes(self, infiller: Infiller, texts: Sequence[str | NoText], part: Part) -> Iterator[Outcome]:
        """The best fill of each text, why there is none, or None where the text is empty."""
        asked = []
        for row, text in enumerate(texts):
            asked.append(self._checked(self._asked(infiller, text, part.first + row), part, row))
        requests = [request for request in asked if isinstance(request, Request)]
        filled = outcomes_of(infiller, requests, self._filling.batch_size)
        for row, request in enumerate(asked):
            yield self._checked(_best(next(filled)), part, row) if isinstance(request, Request) else request

    def _checked(self, given: Given | str, part: Part, row: int) -> Given | str:
        """What is given, unless it says why a row is bad and no row may be."""
        if isinstance(given, str) and self._filling.on_error == "fail":
            raise TextError(
                f"{part.source}, row {part.first + row + 1}: {given}; mend the row, or go on past such rows with "
                "`on_error='skip'`"
            )
        return given

    def _asked(self, infiller: Infiller, text: str | NoText, number: int) -> Request | str | None:
        if isinstance(text, NoText):
            return text.reason
        return request_of(infiller, text, number, self._filling.fields)


def _best(outcome: list[Fill] | str) -> Fill | str:
    return outcome if isinstance(outcome, str) else outcome[0]
