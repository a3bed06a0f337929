"""`pointsman-export`: checkpoints to bundles, and bundles to plans."""

import argparse
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import pointsman_export
from pointsman.backends.choice import choose
from pointsman.bundle import Form, Manifest, Variant
from pointsman.cli.arguments import Parser, sentence_of
from pointsman.cli.output import run_to_the_end
from pointsman.errors import PointsmanError
from pointsman.wording import counted
from pointsman_export.cli.plans import add_commands
from pointsman_export.cli.triton import add_triton

if TYPE_CHECKING:
    from pointsman_export.bundle import Capacity

_SENTENCE = "The <extra_id_0> walks in <extra_id_1> park."
FORMS: dict[str, tuple[Form, ...]] = {"fused": ("fused",), "portable": ("portable",), "both": ("fused", "portable")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 1 parity failed, 2 the user's mistake."""
    # A polite kill unwinds like Ctrl-C, so that nothing half-written stays; only a main thread may say so.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    parsed = None
    try:
        parsed = _parser().parse_args(arguments)
        return _run(parsed)
    except PointsmanError as error:
        print(f"pointsman-export: {sentence_of(error, parsed)}", file=sys.stderr)
        return error.exit_code


def _run(parsed: argparse.Namespace) -> int:
    try:
        return run_to_the_end(partial(parsed.run, parsed))
    except KeyboardInterrupt:
        print(f"pointsman-export: {parsed.interrupted}", file=sys.stderr)
        return 130


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> Parser:
    parser = Parser(prog="pointsman-export", description="Export Switch Transformers checkpoints.")
    parser.add_version()
    parser.examples = ("pointsman-export bundle google/switch-base-8 -o build/base-8", "pointsman-export bundle --help")
    commands = parser.add_commands()
    _add_bundle(commands)
    add_commands(commands)
    add_triton(commands)
    return parser


def _add_bundle(commands: Any) -> None:  # noqa: ANN401 - argparse's type for this is private
    bundle: Parser = commands.add_parser(
        "bundle",
        help="checkpoint to ONNX bundle",
        description="Export a checkpoint to a bundle of ONNX graphs, checked against the checkpoint.",
    )
    bundle.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a Hugging Face folder or hub id, or a folder that T5X wrote"
    )
    bundle.add_argument("-o", "--output", required=True, metavar="BUNDLE", help="folder to write")
    bundle.add_argument("--form", choices=FORMS, default="both", help="which graphs to write (default: both)")
    bundle.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of weights and products; bfloat16 and float16 take half the memory, and are for GPUs (default: float32)",
    )
    bundle.add_argument(
        "--capacity",
        type=_capacity,
        help="tokens an expert accepts from one sequence: reference (the checkpoint's own), none, or a number "
        "(default: reference, and none for a checkpoint that T5X wrote)",
    )
    bundle.add_argument(
        "--max-tokens",
        type=int,
        default=2048,
        help="the most tokens of a text, and of its answer; requests for more are refused (default: 2048)",
    )
    bundle.add_argument(
        "--tokenizer",
        help="the vocabulary: spiece.model, tokenizer.json, a folder or a hub id (default: the checkpoint's folder)",
    )
    bundle.add_argument(
        "--force",
        action="store_true",
        help="replace BUNDLE if it is a bundle, or empty; quantized variants and plans stay where they are still right",
    )
    bundle.add_argument("--discard", action="store_true", help="with --force, lose those that are not")
    bundle.add_argument(
        "--base", metavar="CHECKPOINT", help="the base of an adapter (default: the one that its configuration names)"
    )
    bundle.add_argument(
        "--ignore-generation-config", action="store_true", help="leave out the checkpoint's settings of generating"
    )
    bundle.add_argument("--ignore-unused", action="store_true", help="leave out tensors that no Switch Transformer has")
    bundle.add_argument(
        "--verify",
        choices=("sample", "all"),
        default="sample",
        help="which experts of each layer to compare with the checkpoint's: some, or all (default: sample)",
    )
    bundle.add_argument("--revision", help="branch, tag or commit of a hub id (default: its main branch)")
    bundle.add_argument(
        "--token",
        help="access token for the hub; others can see it in the list of processes (default: the HF_TOKEN variable)",
    )
    bundle.examples = (
        "pointsman-export bundle google/switch-base-8 -o build/base-8 --dtype bfloat16",
        "pointsman-export bundle my-checkpoint -o build/mine --max-tokens 512",
    )
    bundle.set_defaults(run=_bundle, interrupted="interrupted; nothing was written")


def _capacity(text: str) -> "Capacity":
    if text == "reference":
        return "reference"
    if text == "none":
        return "none"
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not reference, none, or a number from 1")


def _bundle(parsed: argparse.Namespace) -> int:
    manifest = pointsman_export.export_bundle(
        parsed.checkpoint,
        parsed.output,
        forms=FORMS[parsed.form],
        dtype=parsed.dtype,
        capacity=parsed.capacity,
        max_tokens=parsed.max_tokens,
        tokenizer=parsed.tokenizer,
        force=parsed.force,
        discard=parsed.discard,
        base=parsed.base,
        ignore_unused=parsed.ignore_unused,
        ignore_generation_config=parsed.ignore_generation_config,
        verify=parsed.verify,
        revision=parsed.revision,
        token=parsed.token,
    )
    for name, variant in manifest.variants.items():
        print(f"{name}: {sum(file.bytes for file in variant.files) / 1e6:,.1f} MB, {_done(variant)}")
    if manifest.engines:
        print(f"kept {counted(len(manifest.engines), 'plan')}")
    print(f"wrote {parsed.output}")
    print(_next_command(manifest, shlex.quote(parsed.output)))
    return 0


def _next_command(manifest: Manifest, bundle: str) -> str:
    """How to fill with what was exported, on this machine."""
    try:
        choose(manifest, device="auto", variant="auto")
    except PointsmanError:
        return f"it needs a GPU; for a CPU, quantize it: pointsman-calib quantize {bundle} --scheme int8"
    return f"fill with it: pointsman infill {bundle} {shlex.quote(_SENTENCE)}"


def _done(variant: Variant) -> str:
    """What was done with a variant; the parity in a quantized one's record is that of its source."""
    if variant.quantization is not None:
        return f"kept (quantized from {variant.quantization.source})"
    parity = variant.parity
    return f"parity {parity.max_error:.1e} of {parity.tolerance:.1e} allowed, worst at {parity.worst}"
