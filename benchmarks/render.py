"""Render the README's table of measurements from `results/*.json`, between its two markers.

`python benchmarks/render.py` rewrites the README; with `--check` it only says whether the README is up to date.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measurements import RESULTS

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
REFERENCE = "transformers"
COLUMNS = {
    "greedy": "greedy",
    "batch 8": "8 inputs at once",
    "4 beams": "4 beams",
    "encoder 512": "encoder alone, 512 tokens",
}
Record = dict[str, Any]


def rendered(results: Path) -> str:
    """The text between the markers."""
    decode, memory = (_read(results / f"{name}.json") for name in ("decode", "export_memory"))
    paragraphs = [_decode_table(decode), _filled(_conditions(decode)), _memory_table(memory)]
    return "\n\n".join([*paragraphs, _filled(_machine(decode, memory))])


def _filled(text: str) -> str:
    """Prose in lines of the project's length."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _read(path: Path) -> Record:
    if not path.exists():
        raise SystemExit(f"{path} does not exist; run python benchmarks/{path.stem}.py first")
    record: Record = json.loads(path.read_text(encoding="utf-8"))
    return record


def _decode_table(decode: Record) -> str:
    contestants = decode["contestants"]
    rows = [[_title(name, decode), *_cells(contestants, name)] for name in contestants]
    rows.append(["*reading and multiplying float32 weights, nothing else*", *_roofline_cells(decode), "", ""])
    return _table(["", *COLUMNS.values(), "loading", "on disk"], rows)


def _title(name: str, decode: Record) -> str:
    if name == REFERENCE:
        return f"transformers {decode['versions']['transformers']}, float32"
    if name == "dense floor":
        return "*the same without experts, fused-float32*"
    return f"**Pointsman, {name}**"


def _cells(contestants: Record, name: str) -> list[str]:
    cells = []
    for case in COLUMNS:
        seconds, reference = (contestants[who]["cases"][case]["seconds"] for who in (name, REFERENCE))
        ratio = "" if name == REFERENCE else f" ({reference / seconds:.1f}×)"
        cells.append(f"{seconds:.2f} s{ratio}")
    return [*cells, f"{contestants[name]['load_seconds']:.1f} s", f"{contestants[name]['bytes'] / 1e9:.2f} GB"]


def _roofline_cells(decode: Record) -> list[str]:
    seconds, reference = decode["roofline"]["seconds"], decode["contestants"][REFERENCE]["cases"]
    return [f"{seconds[case]:.2f} s ({reference[case]['seconds'] / seconds[case]:.1f}×)" for case in COLUMNS]


def _conditions(decode: Record) -> str:
    greedy, settings, roofline = decode["cases"]["greedy"], decode["settings"], decode["roofline"]
    return (
        f"A request of {greedy['source']} tokens in and {greedy['new_tokens']} out (encoder included), in seconds, and "
        "how many times as fast as transformers; switch-base-8's shape with random weights, "
        f"{settings['threads']} threads. {_agreement(decode['equal_tokens'])} "
        f"Medians over {settings['rounds']} interleaved rounds, every contestant in a process of its own. "
        "The dense row is a floor: the same network, exported alike, with one feed-forward network in the place of "
        "the experts. The last row is the roofline: the weights that the request needs, read at the "
        f"{roofline['bytes_a_second'] / 1e9:.0f} GB/s that this machine's memory gives, and multiplied at the "
        f"{roofline['operations_a_second'] / 1e9:.0f} billion operations a second of its fastest float32 product. "
        "Pointsman's encoder also makes the keys and values of cross-attention, a seventh of the arithmetic, which "
        "transformers does in its first decoding step."
    )


def _agreement(equal_tokens: Record) -> str:
    pairs = [pair for cases in equal_tokens.values() for pair in cases.values()]
    same, total = (sum(column) for column in zip(*pairs, strict=True))
    if same == total:
        return f"All {total:,} generated tokens are those of transformers."
    return f"{same:,} of {total:,} generated tokens are those of transformers."


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


def _machine(*records: Record) -> str:
    """One sentence, or one for each record where they were not made alike."""
    sentences = []
    for record in records:
        machine, versions = record["machine"], record["versions"]
        sets = ", ".join(machine["instruction_sets"])
        sentences.append(
            f"Measured on {record['date']}: {machine['cpu']}, {machine['cores']} cores ({sets}), "
            f"{machine['memory_gb']} GB; {machine['system']}; onnxruntime {versions['onnxruntime']}, "
            f"torch {versions['torch']}. Raw samples are in `benchmarks/results`."
        )
    return " ".join(dict.fromkeys(sentences))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def replaced(readme: str, table: str) -> str:
    """The README with `table` between its markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the README lacks {BEGIN} or, after it, {END}; put both where the table belongs")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Render the README's table of measurements.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the README is out of date")
    parser.add_argument("--readme", type=Path, default=README, help="the file to render into")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of measurements")
    parsed = parser.parse_args()
    old = parsed.readme.read_text(encoding="utf-8")
    new = replaced(old, rendered(parsed.results))
    if parsed.check and new != old:
        print(f"{parsed.readme} is out of date; run python benchmarks/render.py", file=sys.stderr)
        return 1
    if not parsed.check:
        parsed.readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
