"""Render the README's table of measurements, and the plots of `docs/`, from `results/*.json`.

`python benchmarks/render.py` rewrites the README between its two markers, and the plots; with `--check` it only says
whether they are up to date. Machines whose results lie there stand side by side, as ratios.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import machine
from contest import FLOOR, REFERENCE
from measurements import RESULTS
from plots import Panel, bar_plot, document
from pointsman_calib.report.line_plot import Group, line_plot
from speeds import Speeds

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
COLUMNS = {
    "greedy": "greedy",
    "batch 8": "8 inputs",
    "4 beams": "4 beams",
    "batch 8 x 4 beams": "8 inputs, 4 beams",
    "encoder 512": "encoder, 512 tokens",
}
NONE = "–"
UNITS = {
    "experts": "experts",
    "rows": "rows that share a step",
    "source": "tokens of the source",
    "output": "at this token of the output",
}
Record = dict[str, Any]


def rendered(results: Path) -> str:
    """The text between the markers."""
    decodes, memory = list(_records(results, "decode")), _read(results / "export_memory.json")
    paragraphs = [_decode_table(decodes), _filled(_conditions(decodes)), *map(_filled, map(_machine, decodes))]
    return "\n\n".join([*paragraphs, _memory_table(memory), _filled(_machine(memory))])


def plots(results: Path) -> dict[str, str]:
    """SVG documents by file name: of what was measured."""
    drawn = {"speed.svg": document(bar_plot(*_speed(list(_records(results, "decode")))))}
    if growths := list(_records(results, "growth", required=False)):
        label = "Milliseconds a token by experts, rows, tokens of the source and of the output"
        drawn["growth.svg"] = document(line_plot(_growth(growths), label, "ms a token"))
    return drawn


def _filled(text: str) -> str:
    """Prose in lines of the project's length."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _records(results: Path, kind: str, *, required: bool = True) -> Iterator[Record]:
    """What was measured on each machine."""
    paths = sorted(results.glob(f"{kind}-*.json"))
    if not paths and required:
        raise SystemExit(f"{results} holds no {kind}-*.json; run python benchmarks/{kind}.py first")
    return map(_read, paths)


def _read(path: Path) -> Record:
    if not path.exists():
        raise SystemExit(f"{path} does not exist; run python benchmarks/{path.stem}.py first")
    record: Record = json.loads(path.read_text(encoding="utf-8"))
    return record


def _contestants(decodes: Sequence[Record]) -> list[str]:
    """Of all machines, in the order of the one that has most."""
    most = max(decodes, key=lambda decode: len(decode["contestants"]))
    return list(dict.fromkeys([*most["contestants"], *(name for each in decodes for name in each["contestants"])]))


def _decode_table(decodes: Sequence[Record]) -> str:
    machines = " / ".join(machine.short_name(decode["machine"]) for decode in decodes)
    rows = [
        [
            _title(name, decodes),
            *(" / ".join(_cell(decode, name, case) for decode in decodes) for case in COLUMNS),
            " / ".join(_shown(decode, name, "load_seconds", "{:.1f} s") for decode in decodes),
            _shown(_first_with(decodes, name), name, "bytes", "{:.2f} GB", 1e9),
        ]
        for name in _contestants(decodes)
    ]
    rows += [[f"*roofline of {name}*", *cells, "", ""] for name, cells in _rooflines(decodes)]
    return _table([machines, *COLUMNS.values(), "loading", "on disk"], rows)


def _first_with(decodes: Sequence[Record], name: str) -> Record:
    return next(decode for decode in decodes if name in decode["contestants"])


def _title(name: str, decodes: Sequence[Record]) -> str:
    library, _, precision = name.partition(" ")
    if name == FLOOR:
        return "*the same without experts, fused-float32*"
    if not precision:
        return f"**Pointsman, {name}**"
    version = _first_with(decodes, name)["versions"].get(library, "")
    dense = ", dense T5" if library == "ctranslate2" else ""
    return f"{library} {version}, {precision}{dense}"


def _seconds(decode: Record, name: str, case: str) -> float | None:
    seconds: float | None = decode["contestants"].get(name, {}).get("cases", {}).get(case, {}).get("seconds")
    return seconds


def _ratio(decode: Record, name: str, case: str) -> float | None:
    """Times the speed of the reference."""
    mine, reference = _seconds(decode, name, case), _seconds(decode, REFERENCE, case)
    return reference / mine if mine and reference else None


def _cell(decode: Record, name: str, case: str) -> str:
    if name == REFERENCE:
        seconds = _seconds(decode, name, case)
        return f"{seconds:.2f} s" if seconds else NONE
    ratio = _ratio(decode, name, case)
    return f"{ratio:.1f}×" if ratio else NONE


def _shown(decode: Record, name: str, key: str, form: str, unit: float = 1.0) -> str:
    contestant = decode["contestants"].get(name)
    return form.format(contestant[key] / unit) if contestant else NONE


def _rooflines(decodes: Sequence[Record]) -> Iterator[tuple[str, list[str]]]:
    """Of our fused variants: how many times the reference's speed is the most that the machine allows."""
    for name in (name for name in _contestants(decodes) if name.startswith("fused")):
        cells = [" / ".join(_bound(decode, name, case) for decode in decodes) for case in COLUMNS]
        if any(cell.strip(f" /{NONE}") for cell in cells):
            yield name, cells


def _bound(decode: Record, name: str, case: str) -> str:
    least, reference = decode["roofline"]["least_seconds"].get(name, {}).get(case), _seconds(decode, REFERENCE, case)
    return f"{reference / least:.1f}×" if least and reference else NONE


def _conditions(decodes: Sequence[Record]) -> str:
    greedy = decodes[0]["cases"]["greedy"]
    beside = "; numbers beside a stroke are those of the machines above, in their order" if len(decodes) > 1 else ""
    return (
        f"A request of {greedy['source']} tokens in and {greedy['new_tokens']} out (encoder included): seconds of "
        f"transformers in float32, and how many times as fast the others are{beside}. Weights are random, of "
        "switch-base-8's shape; CTranslate2, which has no experts, and the row without experts have a dense T5 of the "
        "same width and depth, whose active size is the same. A roofline is the most that the machine allows: a "
        "variant's weights read and multiplied, and nothing else. Contestants take turns, each in a process of its "
        "own. How it is measured: [docs/performance.md](docs/performance.md)."
    )


def _agreement(equal_tokens: Record) -> str:
    pairs = [pair for name, cases in equal_tokens.items() if "ctranslate2" not in name for pair in cases.values()]
    if not pairs:
        return ""
    same, total = (sum(column) for column in zip(*pairs, strict=True))
    many = f"all {total:,}" if same == total else f"{same:,} of {total:,}"
    return f"; {many} tokens of float32 variants are those of transformers"


def _memory_table(memory: Record) -> str:
    rows = [
        [
            name.partition("-")[2].replace("-", " "),
            f"{export['model_bytes'] / 1e9:.1f} GB",
            f"{export['peak_bytes'] / 1e9:.2f} GB",
            f"{export['anonymous_peak_bytes'] / 1e9:.2f} GB",
            f"{export['seconds']:.0f} s",
        ]
        for name, export in memory["exports"].items()
    ]
    return _table(["exporting, model grown", "weights", "peak memory", "of it not file-backed", "time"], rows)


def _machine(record: Record) -> str:
    """What a record was measured on, and how."""
    described, versions = record["machine"], record["versions"]
    sets = ", ".join(described["instruction_sets"])
    return (
        f"Measured on {record['date']}{_commit(record)}: {described['cpu']}, {described['cores']} cores ({sets}), "
        f"{described['memory_gb']} GB; {described['system']}; onnxruntime {versions['onnxruntime']}, "
        f"torch {versions['torch']}{_settings(record)}."
    )


def _commit(record: Record) -> str:
    return f" with commit {record['commit']}" if "commit" in record else ""


def _settings(record: Record) -> str:
    """Of a contest: threads, rounds, speeds of the machine, and tokens that are the same."""
    if "settings" not in record:
        return ""
    settings, speeds = record["settings"], Speeds.from_json(record["roofline"])
    float32 = speeds.operations_a_second["float32"] / 1e9
    return (
        f"; {settings['threads']} threads, medians over {settings['rounds']} rounds; memory gives "
        f"{speeds.memory / 1e9:.0f} GB/s, the fastest float32 product {float32:.0f} billion operations a second"
        f"{_agreement(record['equal_tokens'])}"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def _speed(decodes: Sequence[Record]) -> tuple[list[str], list[Panel], str]:
    """Rows, panels and label of a plot of ratios."""
    rows = [name for name in _contestants(decodes) if name != REFERENCE]
    panels = [
        Panel(
            title,
            {
                machine.short_name(decode["machine"]): [_ratio(decode, name, case) for name in rows]
                for decode in decodes
            },
        )
        for case, title in COLUMNS.items()
    ]
    return rows, panels, f"Times the speed of {REFERENCE}"


def _growth(growths: Sequence[Record]) -> list[Group]:
    """A group for each thing that grows, with a line for each machine."""
    return [
        Group(
            UNITS[grown],
            list(sizes),
            {_line(record): [seconds * 1e3 for seconds in record["seconds"][grown].values()] for record in growths},
        )
        for grown, sizes in growths[0]["seconds"].items()
    ]


def _line(record: Record) -> str:
    return f"{machine.short_name(record['machine'])}, {record['settings']['variant']}"


def replaced(readme: str, table: str) -> str:
    """The README with `table` between its markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the README lacks {BEGIN} or, after it, {END}; put both where the table belongs")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def made(readme: Path, results: Path, folder: Path) -> dict[Path, str]:
    """What the README and each plot should be."""
    pages = {readme: replaced(readme.read_text(encoding="utf-8"), rendered(results))}
    return pages | {folder / name: drawn for name, drawn in plots(results).items()}


def main() -> int:
    parser = argparse.ArgumentParser(description="Render the README's table of measurements, and the plots.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if something is out of date")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="the file to render into")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of measurements")
    parser.add_argument("--plots", type=Path, default=ROOT / "docs", help="the folder of plots")
    parsed = parser.parse_args()
    stale = {
        path: page for path, page in made(parsed.readme, parsed.results, parsed.plots).items() if _is_stale(path, page)
    }
    for path, page in stale.items():
        if parsed.check:
            print(f"{path} is out of date; run python benchmarks/render.py", file=sys.stderr)
        else:
            path.write_text(page, encoding="utf-8")
    return int(parsed.check and bool(stale))


def _is_stale(path: Path, page: str) -> bool:
    return not path.exists() or path.read_text(encoding="utf-8") != page


if __name__ == "__main__":
    sys.exit(main())
