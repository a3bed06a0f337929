"""Whose language errors speak: Python's where Python is used, flags on a command line."""

import argparse
import ast
import re

import pytest

from places import ROOT
from pointsman.cli.arguments import sentence_of
from pointsman.errors import BundleError, OptionsError

GIVEN = {
    "dtype": "float32", "force": False, "base": None, "ignore_unused": False, "compute_capability": None,
    "max_thin_experts": None, "variant": "auto", "device": "cpu", "num_beams": 1, "documents": 128,
}  # fmt: skip


@pytest.mark.parametrize(
    ("python", "flags"),
    [
        ("replace it with `force=True`", "replace it with --force"),
        ("say where it is with `base`", "say where it is with --base"),
        ("as with `variant='fused-int8'`", "as with --variant fused-int8"),
        ("as in `compute_capabilities=['8.9']`", "as in --compute-capability 8.9"),
        ("more such experts with `most_thin`", "more such experts with --max-thin-experts"),
        ("leave them out with `ignore_unused=True`", "leave them out with --ignore-unused"),
        ("loosen it with `window`", "loosen it with `window`"),  # the command has no such flag
        ("export it with `pointsman-export bundle --dtype float32`",) * 2,
        ("run `git lfs pull`",) * 2,
        ("use device 'cpu'", "use --device cpu"),
    ],
)
def test_any_error_on_a_command_line(python, flags):
    for kind in (BundleError, OptionsError):
        assert sentence_of(kind(python), argparse.Namespace(**GIVEN)) == flags


def test_a_variant_is_written_behind_a_bundle_that_is_served():
    error = BundleError("ask for one that is quantized, as with `variant='fused-int8'`")
    said = sentence_of(error, argparse.Namespace(bundles=["b"], device="cpu"))
    assert said == "ask for one that is quantized, as with `BUNDLE@fused-int8`"


@pytest.mark.parametrize(
    ("python", "flags"),
    [("num_beams is 0; use 1", "--num-beams is 0; use 1"), ("documents is 0: give 1", "--documents is 0: give 1")],
)
def test_options_that_are_out_of_range(python, flags):
    assert sentence_of(OptionsError(python), argparse.Namespace(**GIVEN)) == flags
    assert sentence_of(BundleError(python), argparse.Namespace(**GIVEN)) == python


def test_no_command_line():
    """Where it is what is wrong."""
    assert sentence_of(OptionsError("use `force=True`"), None) == "use `force=True`"


def raised():
    """Each sentence that is raised outside the commands, with `…` for what is put into it."""
    for path in sorted(path for folder in ("runtime", "export", "calib") for path in (ROOT / folder).rglob("*.py")):
        if "cli" not in path.relative_to(ROOT).parts:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Raise) and node.exc is not None:
                    yield path.relative_to(ROOT), "".join(words(node.exc))


def words(node):
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.FormattedValue):
        yield "…"
    else:
        for child in ast.iter_child_nodes(node):
            yield from words(child)


def test_what_is_raised_speaks_no_flags():
    """But in a command that stands there whole, in backticks; a constant may hold its beginning."""
    found = list(raised())
    assert len(found) > 300
    commands = re.compile(r"(`pointsman[\w-]* |… --)[^`]*`")
    flag = re.compile(r"(?<![\w-])--[a-z]")
    assert [(str(place), sentence) for place, sentence in found if flag.search(commands.sub("", sentence))] == []
