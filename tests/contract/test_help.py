"""What `--help` promises, of every command and subcommand: a meaning and a default for each option, and examples."""

import argparse
import shlex
from collections.abc import Iterator
from dataclasses import fields

import pytest

from pointsman import DecodingOptions
from pointsman.cli import main as runtime
from pointsman.cli.arguments import Parser
from pointsman_calib.cli import main as calib
from pointsman_export.cli import main as export

COMMANDS = {module._parser().prog: module for module in (runtime, export, calib)}
DECODING = {field.name: field.default for field in fields(DecodingOptions)}


def parsers() -> Iterator[Parser]:
    for module in COMMANDS.values():
        whole = module._parser()
        yield whole
        yield from whole._commands.values()


def actions() -> Iterator[tuple[Parser, argparse.Action]]:
    for parser in parsers():
        for action in parser._actions:
            if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
                yield parser, action


def named(value: object) -> str:
    if isinstance(value, Parser):
        return value.prog.replace(" ", "-")
    return value.option_strings[-1] if value.option_strings else value.dest


@pytest.mark.parametrize(("parser", "action"), [*actions()], ids=named)
def test_every_argument_has_a_meaning_and_every_option_says_its_default(parser, action):
    said = action.help or ""
    meaning, _, default = said.partition("(default: ")
    assert len(meaning.split()) > 1, "a meaning"
    is_switch = action.nargs == 0 and not isinstance(action, argparse.BooleanOptionalAction)
    if action.option_strings and not action.required and not is_switch:
        assert default, "a default"
    if isinstance(action.default, int | float | str) and action.default not in (argparse.SUPPRESS, False):
        assert str(action.default).removesuffix(".0") in default.replace("this machine alone", "127.0.0.1")


@pytest.mark.parametrize("parser", [*parsers()], ids=named)
def test_the_defaults_of_decoding_are_those_of_the_library(parser):
    for action in parser._actions:
        value = DECODING.get(action.dest)
        if action.default is argparse.SUPPRESS and isinstance(value, float | int) and action.dest != "max_new_tokens":
            said = {True: "yes", False: "no"}.get(value) if action.nargs == 0 else str(value).lower()
            assert f"(default: {said})" in action.help, action.dest


@pytest.mark.parametrize("parser", [*parsers()], ids=named)
def test_every_help_has_examples_that_are_understood(parser):
    assert parser.description[0].isupper(), "a sentence"
    assert parser.examples
    for example in parser.examples:
        assert f"\n  {example}\n" in parser.format_help()
        assert example.startswith(parser.prog)
        command, *arguments = shlex.split(example)
        if arguments[-1] != "--help":
            assert COMMANDS[command]._parser().parse_args(arguments).run
