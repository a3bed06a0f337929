"""`pointsman serve`: what it refuses, in one line."""

import pytest

from pointsman.cli.main import _parser, main

REFUSED = {
    "other machines": (
        ["b", "--host", "0.0.0.0"],
        "0.0.0.0 can be reached from other machines; give --api-keys FILE, or",
    ),
    "a name of a host": (["b", "--host", "example.org"], "example.org can be reached from other machines"),
    "a port": (["b", "--port", "70000"], "'70000' is no port: use a whole number from 0 to 65535"),
    "a time": (["b", "--timeout", "0"], "'0' is no time: use a number of seconds above 0"),
    "a variant as an option": (["b", "--variant", "int8"], "--variant is no option (write it behind the bundle, as in"),
    "a variant, misspelt": (["b", "--varient", "int8"], "--varient is no option (write it behind the bundle, as in"),
    "a size": (["b", "--max-cache-bytes", "4X"], "'4X' is no size: use bytes, or a number with K, M, G or T"),
    "no bundle": ([], "the following arguments are required"),
    "a bundle that is not there": (["nowhere"], "nowhere"),
    "a name twice": (["x/b", "y/b"], "two bundles would be served as b; name them: one=x/b two=y/b"),
    "keys that are not there": (["b", "--api-keys", "nowhere"], "API keys nowhere cannot be read (No such file or dir"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind, capsys):
    arguments, sentence = REFUSED[kind]
    assert main(["serve", *arguments]) == 2
    (said,) = capsys.readouterr().err.splitlines()  # and no log line before it
    assert said.startswith("pointsman: ")
    assert sentence in said


@pytest.mark.parametrize("content", [b"", b"# nothing\n\n", b"short\n", b"a-key-of-some-length\nshort\n", b"\xff\xfe"])
def test_key_files_that_are_none(content, tmp_path, capsys):
    keys = tmp_path / "keys"
    keys.write_bytes(content)
    assert main(["serve", "b", "--api-keys", str(keys)]) == 2
    assert capsys.readouterr().err.startswith(f"pointsman: API keys {keys} ")


def test_a_variant_that_is_not_there(tiny_bundle, capsys):
    """Found out before anything is loaded, also where it is not the first."""
    assert main(["serve", str(tiny_bundle), f"mine={tiny_bundle}@fused-int3"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("pointsman: the bundle has no variant 'fused-int3'; it has fused-float32")


def test_a_precision_for_a_variant(tiny_bundle, capsys):
    assert main(["serve", f"mine={tiny_bundle}@float32"]) == 2
    said = capsys.readouterr().err
    assert "no variant 'float32'; it has fused-float32" in said
    assert "; did you mean fused-float32?" in said


def test_sizes_have_units():
    parsed = _parser().parse_args(["serve", "b", "--max-cache-bytes", "4G", "--max-body-bytes", "2M"])
    assert (parsed.max_cache_bytes, parsed.max_body_bytes) == (4 * 10**9, 2 * 10**6)
