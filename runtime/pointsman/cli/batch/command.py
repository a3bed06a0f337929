"""One run of `pointsman infill --input`."""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from pointsman.cli.batch.ahead import Record
from pointsman.cli.batch.filling import Filling
from pointsman.cli.batch.job import BUNDLE, DRAWN, LINES, SEED, VARIANT, Job, Settings, check
from pointsman.cli.batch.progress import Progress
from pointsman.cli.batch.reading import Form, Line, line_count, opened, read_lines
from pointsman.cli.batch.stopping import Stopping
from pointsman.cli.loading import loaded
from pointsman.cli.output import Interrupted, report, write
from pointsman.decoding import DecodingFields
from pointsman.errors import OptionsError
from pointsman.infill import Infiller
from pointsman.infill.origin import content_of, options_of
from pointsman.infill.requests import TEXTS_AT_ONCE
from pointsman.wording import counted

_PACKED: Final = (".gz", ".bz2", ".xz", ".zst", ".zip", ".parquet")
_BATCHES_TO_TELL: Final = 4  # how fast a run is, as its texts are of all lengths
_TAKEN: Final[dict[Form, str]] = {
    "plain": "lines are taken as plain texts; --objects takes them as JSON objects",
    "objects": "lines are taken as JSON objects; --plain takes them as plain texts",
}


def infill_lines(parsed: argparse.Namespace, decoding: DecodingFields) -> int:
    """Fill the lines of a file.

    Raises:
        Interrupted: By a signal; it says how far the run came.
    """
    if parsed.output == "-":
        parsed.output = None
    _check(parsed)
    stopping = Stopping()
    with contextlib.ExitStack() as stack:
        stack.enter_context(stopping.taken())
        source = stack.enter_context(opened(parsed.input))
        infiller, job = loaded(parsed), None
        form, lines = read_lines(source, parsed.lines)
        if form and not parsed.lines:
            report(_TAKEN[form])
        if parsed.output is not None:
            settings = _settings(infiller, decoding, form)
            job = stack.enter_context(Job.opened(Path(parsed.output), settings, resume=parsed.resume))
            lines = job.matched(lines)
            if job.settings[SEED] is not None:
                decoding = {**decoding, "seed": job.settings[SEED]}
        filling = Filling(infiller, parsed.batch_size or TEXTS_AT_ONCE, decoding, skip=parsed.on_error == "skip")
        before, failed = (job.count, job.failed) if job else (0, 0)
        least = min(filling.together, _BATCHES_TO_TELL * filling.batch_size)
        progress = Progress(line_count(parsed.input), sys.stderr, before=before, failed=failed, window=least)
        _fill(filling, lines, _Records(job, progress, stopping))
    report(progress.end)
    return 0


@dataclass(frozen=True, slots=True)
class _Records:
    """Where records go, and are counted: both or neither, whatever signal comes.

    Attributes:
        job: To what file; None is stdout.
        progress: Counts.
        stopping: Holds back signals.
    """

    job: Job | None
    progress: Progress
    stopping: Stopping

    def kept(self) -> Mapping[int, Record]:
        """As the job's."""
        records = self.job.kept() if self.job else {}
        self.progress.wait(records, filled=False)
        return records

    def keep(self, records: Sequence[Record]) -> None:
        """Have records wait; those for stdout are not written down."""
        with self.stopping.held():
            if self.job:
                self.job.keep(records)
            self.progress.wait((record["line"] for record in records), filled=True)

    def give(self, record: Record) -> None:
        """Write one."""
        with self.stopping.held():
            if self.job:
                self.job.write(record)
            else:
                write(json.dumps(record) + "\n")
            self.progress.count(record["line"], failed="error" in record)

    @property
    def end(self) -> str:
        """What a run has come to that is interrupted."""
        done = f"interrupted after {counted(self.progress.done, 'line')}"
        if not self.job:
            return done
        ahead = f", and {self.progress.waiting:,} more are filled" if self.progress.waiting else ""
        return f"{done}{ahead}; go on with --resume"


def _fill(filling: Filling, lines: Iterator[Line], records: _Records) -> None:
    """Fill lines, and give their records."""
    try:
        with records.progress:
            for record in filling.records(lines, records.progress.before, records):
                records.give(record)
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Interrupted) else Interrupted().number
        raise Interrupted(records.end, number=number) from None


def _check(parsed: argparse.Namespace) -> None:
    """Refuse what does not go together, before anything is loaded.

    Raises:
        OptionsError: Flags that need others, or exclude them; or the output is the input.
    """
    if parsed.input is None:
        raise OptionsError("--jsonl fills the lines of a file; say which with --input FILE, where - is stdin")
    if not parsed.jsonl:
        raise OptionsError("--input gives one JSON object for each line; add --jsonl")
    if parsed.texts:
        raise OptionsError("the texts are those of --input; leave out --input and --jsonl, or the other texts")
    if parsed.json:
        raise OptionsError("--json prints one document and --jsonl one object a line; leave out --json")
    if parsed.output is None:
        if parsed.resume:
            raise OptionsError("--resume goes on with a file; say which with --output")
        return
    path = Path(parsed.output)
    if path.suffix.lower() in _PACKED:
        raise OptionsError(
            f"--output has a name that ends in {path.suffix}, and records are JSON lines; leave that out, and pack or "
            "convert the file when it is whole"
        )
    if path.exists() and Path(parsed.input).exists() and path.samefile(parsed.input):
        raise OptionsError("--output is the input; choose another")
    check(path, resume=parsed.resume)


def _settings(infiller: Infiller, decoding: DecodingFields, form: Form | None) -> Settings:
    """What the records follow from, but for the lines."""
    manifest, choice = infiller.model.manifest, infiller.model.choice
    effective = options_of(manifest, decoding)
    settings: dict[str, Any] = {
        BUNDLE: content_of(manifest, choice.variant),
        VARIANT: choice.variant,
        "--device": choice.device,
        "--engine": choice.engine,
        LINES: form and f"--{form}",
        **{f"--{name.replace('_', '-')}": value for name, value in effective.items()},
    }
    if effective["do_sample"] and effective["seed"] is None:
        settings[SEED] = DRAWN
    return cast("Settings", settings)
