"""Decode requests one after another in this process, with a limit of memory, and print what each took as JSON.

Run by large.py, which watches this process's memory from outside.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from pointsman import DecodingOptions, SwitchModel

SPECIAL_IDS = 2  # at the beginning of the vocabulary


def main() -> None:
    parsed = _parser().parse_args()
    began = time.perf_counter()
    model = SwitchModel.load(
        parsed.bundle, "cpu", parsed.variant, threads=parsed.threads, verify=False, max_memory=parsed.max_memory
    )
    loaded = time.perf_counter()
    options = DecodingOptions(max_new_tokens=parsed.new_tokens, min_new_tokens=parsed.new_tokens)
    inputs = drawn_inputs(model, parsed.inputs, parsed.tokens)
    rounds = [[decoded(model, ids, options) for ids in inputs] for _ in range(parsed.rounds)]
    print(json.dumps({"load_seconds": loaded - began, "rounds": rounds}))


def drawn_inputs(model: SwitchModel, count: int, tokens: int) -> list[list[int]]:
    """Inputs of so many tokens each, the same at every run."""
    generator = np.random.default_rng(0)
    vocabulary = model.manifest.architecture.vocab_size
    drawn = generator.integers(SPECIAL_IDS, vocabulary, (count, tokens - 1))
    return [[*map(int, row), model.manifest.architecture.eos_token_id] for row in drawn]


def decoded(model: SwitchModel, ids: list[int], options: DecodingOptions) -> dict[str, object]:
    """Decode one greedily: its tokens, and the seconds to the first token and from there to the last."""
    began, times, tokens = time.perf_counter(), [], []
    for events in model.stream([ids], options):
        times.append(time.perf_counter())
        tokens += [event.token_id for event in events]
    return {"first_seconds": times[0] - began, "other_seconds": times[-1] - times[0], "tokens": tokens}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Decode with a limit of memory.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("variant")
    parser.add_argument("--max-memory", type=int, metavar="BYTES", help="(default: all is loaded)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--inputs", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=64, help="of an input")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2, help="over the same inputs")
    return parser


if __name__ == "__main__":
    main()
