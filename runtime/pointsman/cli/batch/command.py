"""One run of `pointsman infill --input`."""

import argparse
import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, cast

from pointsman.cli.batch.filling import Filling
from pointsman.cli.batch.job import BUNDLE, DRAWN, LINES, SEED, VARIANT, Job, Record, Settings, check
from pointsman.cli.batch.progress import Progress
from pointsman.cli.batch.reading import Form, Line, line_count, opened, read_lines
from pointsman.cli.batch.stopping import Stopping
from pointsman.cli.loading import loaded
from pointsman.cli.output import Interrupted, report, write
from pointsman.decoding import DecodingFields, DecodingOptions
from pointsman.errors import OptionsError
from pointsman.infill import Infiller
from pointsman.infill.requests import TEXTS_AT_ONCE
from pointsman.model import decoding_defaults
from pointsman.wording import counted

_PACKED: Final = (".gz", ".bz2", ".xz", ".zst", ".zip", ".parquet")
_TAKEN: Final[dict[Form, str]] = {
    "plain": "lines are taken as plain texts; --objects takes them as JSON objects",
    "objects": "lines are taken as JSON objects; --plain takes them as plain texts",
}


def infill_lines(parsed: argparse.Namespace, decoding: DecodingFields) -> int:
    """Fill the lines of a file.

    Raises:
        Interrupted: By a signal; it says how far the run came.
    """
    _check(parsed)
    stopping = Stopping()
    with contextlib.ExitStack() as stack:
        stack.enter_context(stopping.taken())
        source = stack.enter_context(opened(parsed.input))
        infiller, keep, before, failed = loaded(parsed), _printed, 0, 0
        form, lines = read_lines(source, parsed.lines)
        if form and not parsed.lines:
            report(_TAKEN[form])
        if parsed.output is not None:
            settings = _settings(infiller, decoding, form)
            job = stack.enter_context(Job.opened(Path(parsed.output), settings, resume=parsed.resume))
            lines, keep, before, failed = job.matched(lines), job.write, job.count, job.failed
            if job.settings[SEED] is not None:
                decoding = {**decoding, "seed": job.settings[SEED]}
        filling = Filling(infiller, parsed.batch_size or TEXTS_AT_ONCE, decoding, skip=parsed.on_error == "skip")
        progress = Progress(line_count(parsed.input), sys.stderr, before=before, failed=failed, window=filling.together)
        _fill(filling, lines, keep, progress, stopping, again="; go on with --resume" if parsed.output else "")
    report(progress.end)
    return 0


def _fill(
    filling: Filling,
    lines: Iterator[Line],
    keep: Callable[[Record], None],
    progress: Progress,
    stopping: Stopping,
    *,
    again: str,
) -> None:
    """Fill lines, and keep their records."""
    try:
        with progress:
            for record in filling.records(lines, progress.before):
                with stopping.held():
                    keep(record)
                    progress.count(failed="error" in record)
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Interrupted) else Interrupted().number
        raise Interrupted(f"interrupted after {counted(progress.done, 'line')}{again}", number=number) from None


def _printed(record: Record) -> None:
    write(json.dumps(record) + "\n")


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
    files = [*manifest.tokenizer, *manifest.variants[choice.variant].files]
    content = json.dumps([[file.path, file.sha256] for file in files])
    effective = asdict(DecodingOptions.over(decoding_defaults(manifest), decoding, room=sys.maxsize))
    if effective["max_new_tokens"] == sys.maxsize:
        effective["max_new_tokens"] = None  # it follows from each text
    effective["constrain"] = effective["constrain"] is not False
    effective["early_stopping"] = str(effective["early_stopping"]).lower()
    settings: dict[str, Any] = {
        BUNDLE: hashlib.sha256(content.encode()).hexdigest()[:16],
        VARIANT: choice.variant,
        "--device": choice.device,
        "--engine": choice.engine,
        LINES: form and f"--{form}",
        **{f"--{name.replace('_', '-')}": value for name, value in effective.items()},
    }
    if effective["do_sample"] and effective["seed"] is None:
        settings[SEED] = DRAWN
    return cast("Settings", settings)
