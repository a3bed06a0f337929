"""`pointsman serve`: what it refuses, in one line."""

import pytest

from pointsman.cli.main import main

REFUSED = {
    "other machines": (
        ["b", "--host", "0.0.0.0"],
        "0.0.0.0 can be reached from other machines; give --api-keys FILE, or",
    ),
    "a name of a host": (["b", "--host", "example.org"], "example.org can be reached from other machines"),
    "a port": (["b", "--port", "70000"], "'70000' is no port: use a whole number from 0 to 65535"),
    "a time": (["b", "--timeout", "0"], "'0' is no time: use a number of seconds above 0"),
    "no bundle": ([], "the following arguments are required"),
    "a bundle that is not there": (["nowhere"], "nowhere"),
    "a name twice": (["x/b", "y/b"], "two bundles would be served as b; name them: one=x/b two=y/b"),
    "keys that are not there": (["b", "--api-keys", "nowhere"], "API keys nowhere cannot be read (No such file or dir"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind, capsys):
    arguments, sentence = REFUSED[kind]
    assert main(["serve", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("pointsman: ")
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"# nothing\n\n", b"short\n", b"a-key-of-some-length\nshort\n", b"\xff\xfe"])
def test_key_files_that_are_none(content, tmp_path, capsys):
    keys = tmp_path / "keys"
    keys.write_bytes(content)
    assert main(["serve", "b", "--api-keys", str(keys)]) == 2
    assert capsys.readouterr().err.startswith(f"pointsman: API keys {keys} ")


def test_a_variant_that_is_not_there(tiny_bundle, capsys):
    assert main(["serve", f"mine={tiny_bundle}@fused-int3"]) == 2
    assert "fused-int3" in capsys.readouterr().err
