"""Every way a folder of T5X's can be unusable: one line that says so, exit code 2, and nothing left behind."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgpack
import numpy as np
import pytest
from safetensors.numpy import save_file

from pointsman.errors import CheckpointError
from pointsman_export.checkpoint import Checkpoint
from pointsman_export.cli.main import main
from said import fits, lines
from t5x_checkpoints import SPIECE, Zarr, inline, read_tree, write_t5x, write_tree

WI = "target.encoder.layers_1.mlp.expert.wi.kernel"
QUERY = "target.encoder.layers_0.attention.query.kernel"
CHUNK = f"{{folder}}/{WI}/0.0.0"
CONVERT = "save it from T5X with use_orbax = False, or convert it to Hugging Face's layout"

Break = Callable[[Path], object]


def remove(name: str) -> Break:
    return lambda folder: (folder / name).unlink()


def write(name: str, data: bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(data)


def cut(name: str, keep: float) -> Break:
    def break_it(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * keep)])

    return break_it


def in_chunk(change: Callable[[bytes], bytes]) -> Break:
    """Change the decompressed bytes of the kernel's chunk."""

    def break_it(folder: Path) -> None:
        file = folder / WI / "0.0.0"
        file.write_bytes(gzip.compress(change(gzip.decompress(file.read_bytes()))))

    return break_it


def flip_checksum(folder: Path) -> None:
    file = folder / WI / "0.0.0"
    data = bytearray(file.read_bytes())
    data[-8] ^= 1
    file.write_bytes(data)


def with_nan(data: bytes) -> bytes:
    values = np.frombuffer(data, np.float32).copy()
    values[5] = np.nan
    return values.tobytes()


def in_zarray(**values: object) -> Break:
    def break_it(folder: Path) -> None:
        file = folder / WI / ".zarray"
        settings = json.loads(file.read_text()) | values
        file.write_text(json.dumps({key: value for key, value in settings.items() if value != "absent"}))

    return break_it


def in_tree(change: Callable[[dict], object]) -> Break:
    def break_it(folder: Path) -> None:
        tree = read_tree(folder)
        change(tree)
        write_tree(folder, tree)

    return break_it


def encoder(tree: dict) -> dict:
    return tree["optimizer"]["target"]["encoder"]


def norm(leaf: object) -> Break:
    """Put another leaf in the place of the encoder's last norm."""
    return in_tree(lambda tree: encoder(tree)["encoder_norm"].update(scale=leaf))


def scanned(tree: dict) -> None:
    layers = {"subblock_0": encoder(tree).pop("layers_0"), "subblock_1": encoder(tree).pop("layers_1")}
    encoder(tree)["layers"] = layers


def spec(**values: object) -> dict:
    return {"driver": "zarr", "kvstore": {"driver": "file", "path": "target.encoder.encoder_norm.scale"}} | values


def touch(name: str) -> Break:
    def break_it(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()

    return break_it


def link_to_nowhere(folder: Path) -> None:
    (folder / WI / "0.0.0").unlink()
    (folder / WI / "0.0.0").symlink_to("nowhere")


def link_to_itself(folder: Path) -> None:
    shutil.rmtree(folder / WI)
    (folder / WI).symlink_to(WI)


FOLDERS: dict[str, tuple[Break, str]] = {
    # Chunks.
    "a chunk missing": (remove(f"{WI}/0.0.0"), f"{CHUNK} is missing, one of 1 chunks; fetch the folder again"),
    "a chunk cut": (cut(f"{WI}/0.0.0", 0.5), f"{CHUNK} is cut after * bytes; fetch it again"),
    "a chunk cut in its checksum": (cut(f"{WI}/0.0.0", 0.999), f"{CHUNK} is cut after * bytes; fetch it again"),
    "a chunk empty": (write(f"{WI}/0.0.0", b""), f"{CHUNK} is cut after 0 bytes; fetch it again"),
    "a chunk of garbage": (write(f"{WI}/0.0.0", b"x" * 99), f"{CHUNK} is damaged (*); fetch it again"),
    "a chunk that Git LFS has not fetched": (
        write(f"{WI}/0.0.0", b"version https://git-lfs.github.com/spec/v1\n"),
        f"{CHUNK} is a Git LFS pointer; run `git lfs pull`",
    ),
    "a chunk of another checksum": (flip_checksum, f"{CHUNK} is damaged (*incorrect data check); fetch it again"),
    "a chunk with bytes behind": (
        lambda folder: (folder / WI / "0.0.0").write_bytes((folder / WI / "0.0.0").read_bytes() + b"more"),
        f"{CHUNK} has bytes after its end; fetch it again",
    ),
    "a chunk of a narrower dtype": (
        in_chunk(lambda data: data[::2]),
        f"{CHUNK} holds 4096 bytes of the 8192 that its .zarray asks for; fetch both again",
    ),
    "a chunk of a wider dtype": (
        in_chunk(lambda data: data * 2),
        f"{CHUNK} holds more than the 8192 bytes that its .zarray asks for; fetch both again",
    ),
    "a chunk with NaN": (
        in_chunk(with_nan),
        "encoder.block.1.layer.1.mlp.experts.expert_0.wi.weight holds 1 values of 512 that are NaN or Inf; *",
    ),
    "a plain chunk cut": (
        lambda folder: (in_zarray(compressor=None)(folder), (folder / WI / "0.0.0").write_bytes(bytes(8000))),
        f"{CHUNK} has ended * bytes early; fetch the file again",
    ),
    "a plain chunk too long": (
        lambda folder: (in_zarray(compressor=None)(folder), (folder / WI / "0.0.0").write_bytes(bytes(8193))),
        f"{CHUNK} holds more than the 8192 bytes that its .zarray asks for; fetch both again",
    ),
    "a chunk that is a folder": (
        lambda folder: ((folder / WI / "0.0.0").unlink(), (folder / WI / "0.0.0").mkdir()),
        f"{CHUNK} cannot be read (Is a directory); restore the file",
    ),
    "a chunk that links to nowhere": (
        link_to_nowhere,
        f"{CHUNK} cannot be read (No such file or directory); restore the file",
    ),
    "an array that links to itself": (link_to_itself, f"{{folder}}/{WI}/.zarray cannot be read (Too many levels of *"),
    "an array missing": (
        lambda folder: shutil.rmtree(folder / WI),
        f"{{folder}}/{WI}/.zarray cannot be read (No such file or directory); restore the file",
    ),
    # .zarray.
    "no .zarray": (
        remove(f"{WI}/.zarray"),
        f"{{folder}}/{WI}/.zarray cannot be read (No such file or directory); restore the file",
    ),
    "a .zarray of garbage": (write(f"{WI}/.zarray", b"{"), f"{{folder}}/{WI}/.zarray is not valid JSON (*); fetch *"),
    "another shape": (
        in_zarray(shape=[4, 16, 31]),
        f"{{folder}}/{WI} has the shape [4, 16, 31] by its .zarray and [4, 16, 32] by checkpoint; fetch both again",
    ),
    "a larger shape": (in_zarray(shape=[4, 16, 33]), f"{{folder}}/{WI}/0.0.1 is missing, one of 2 chunks; *"),
    "a shape beyond all reason": (in_zarray(shape=[4, 16, 10**15]), f"{{folder}}/{WI}/0.0.1 is missing, one of *"),
    "a negative shape": (
        in_zarray(shape=[4, 16, -32]),
        f"{{folder}}/{WI}/.zarray does not give an array's shape and chunks; fetch the file again",
    ),
    "another number of chunks": (in_zarray(chunks=[4, 16]), f"{{folder}}/{WI}/.zarray does not give an array's *"),
    "chunks of nothing": (in_zarray(chunks=[4, 16, 0]), f"{{folder}}/{WI}/.zarray does not give an array's shape *"),
    "smaller chunks": (in_zarray(chunks=[2, 16, 32]), f"{{folder}}/{WI}/1.0.0 is missing, one of 2 chunks; fetch *"),
    "another dtype": (
        in_zarray(dtype="bfloat16"),
        f"{CHUNK} holds more than the 4096 bytes that its .zarray asks for; fetch both again",
    ),
    "a dtype of version 2": (
        in_zarray(dtype="<u2"),
        (
            f"{{folder}}/{WI}/.zarray says <u2, as which T5X kept bfloat16 before version 3 of its checkpoints; "
            "restore it in T5X and save it again"
        ),
    ),
    "a dtype that is not supported": (
        in_zarray(dtype="<f8"),
        "the checkpoint holds dtypes that are not supported: encoder.block.1.layer.1.mlp.experts.expert_0.wi.weight *",
    ),
    "a compressor of Orbax's": (
        in_zarray(compressor={"id": "zstd", "level": 1}),
        (
            f"{{folder}}/{WI}/.zarray says that chunks are compressed with zstd, and only gzip and zlib are read; "
            "save the checkpoint from T5X with use_orbax = False"
        ),
    ),
    "a compressor without a name": (
        in_zarray(compressor={"level": 1}),
        f"{{folder}}/{WI}/.zarray has a damaged compressor (*); fetch the file again",
    ),
    "columns first": (
        in_zarray(order="F"),
        f'{{folder}}/{WI}/.zarray says order is "F", and only "C" is read; save the checkpoint from T5X',
    ),
    "filters": (in_zarray(filters=[{"id": "delta"}]), f"{{folder}}/{WI}/.zarray says filters is *, and only null is *"),
    "zarr 3": (in_zarray(zarr_format=3), f"{{folder}}/{WI}/.zarray says zarr_format is 3, and only 2 is read; *"),
    "chunks in folders": (
        in_zarray(dimension_separator="/"),
        f'{{folder}}/{WI}/.zarray says dimension_separator is "/", and only "." is read; *',
    ),
    # The msgpack file.
    "no msgpack": (
        remove("checkpoint"),
        (
            "{folder} has arrays of a T5X checkpoint and lacks the file checkpoint, which T5X writes last; "
            "fetch the folder again"
        ),
    ),
    "msgpack cut": (cut("checkpoint", 0.9), "{folder}/checkpoint is truncated or damaged msgpack; fetch the *"),
    "msgpack cut in the state": (cut("checkpoint", 0.1), "{folder}/checkpoint is truncated or damaged msgpack; *"),
    "msgpack empty": (write("checkpoint", b""), "{folder}/checkpoint is truncated or damaged msgpack; fetch the *"),
    "msgpack of garbage": (write("checkpoint", b"\xc1" * 99), "{folder}/checkpoint is truncated or damaged msgpack; *"),
    "msgpack of a huge length": (
        write("checkpoint", b"\x81\xa9optimizer\x81\xa6target\xdd\xff\xff\xff\xff"),
        "{folder}/checkpoint is truncated or damaged msgpack; fetch the file again",
    ),
    "msgpack nested without end": (
        write("checkpoint", b"\x81\xa9optimizer\x81\xa6target" + b"\x91" * 100_000),
        "{folder}/checkpoint is truncated or damaged msgpack; fetch the file again",
    ),
    "msgpack with bytes behind": (
        lambda folder: (folder / "checkpoint").write_bytes((folder / "checkpoint").read_bytes() + b"more"),
        "{folder}/checkpoint is truncated or damaged msgpack; fetch the file again",
    ),
    "msgpack of a list": (write("checkpoint", b"\x91\x01"), "{folder}/checkpoint is truncated or damaged msgpack; *"),
    "an LFS pointer": (
        write("checkpoint", b"version https://git-lfs.github.com/spec/v1\n"),
        "{folder}/checkpoint is a Git LFS pointer, not the checkpoint; run `git lfs pull`",
    ),
    "TensorFlow": (
        write("checkpoint", b'model_checkpoint_path: "model.ckpt-1000000"\n'),
        "{folder}/checkpoint belongs to a TensorFlow checkpoint; convert it to T5X or Hugging Face's layout first",
    ),
    "version 2": (
        in_tree(lambda tree: tree.update(version=2)),
        (
            "{folder}/checkpoint is of version 2, which kept bfloat16 as 16-bit integers; Pointsman reads version 3: "
            "restore it in T5X and save it again"
        ),
    ),
    "version 4": (
        in_tree(lambda tree: tree.update(version=4)),
        "{folder}/checkpoint is of version 4; Pointsman reads version 3: restore it in T5X and save it again",
    ),
    "no version": (in_tree(lambda tree: tree.pop("version")), "{folder}/checkpoint is of version None; Pointsman *"),
    "no target": (
        in_tree(lambda tree: tree["optimizer"].pop("target")),
        "{folder}/checkpoint holds no parameters under optimizer/target; use a T5X checkpoint of a model",
    ),
    "no optimizer": (in_tree(lambda tree: tree.pop("optimizer")), "{folder}/checkpoint holds no parameters under *"),
    "a leaf that is no array": (norm(3), "{folder}/checkpoint holds no array at target/encoder/encoder_norm/scale; *"),
    "a store in memory": (
        norm(spec(driver="zarr3")),
        (
            "{folder}/checkpoint keeps target/encoder/encoder_norm/scale in a store that is not read "
            f"(driver zarr3, path target.encoder.encoder_norm.scale); {CONVERT}"
        ),
    ),
    "a path that leads out": (
        norm(spec(kvstore={"driver": "file", "path": "target.a/.."})),
        "{folder}/checkpoint keeps target/encoder/encoder_norm/scale in a store that is not read *",
    ),
    "a store without a path": (
        norm(spec(kvstore={"driver": "memory"})),
        "{folder}/checkpoint keeps * (*, path None); *",
    ),
    "an inline array cut": (
        norm(msgpack.ExtType(1, msgpack.packb(([16], "float32", bytes(60))))),
        "{folder}/checkpoint has a damaged array at encoder/encoder_norm/scale; fetch the file again",
    ),
    "an inline array of garbage": (
        norm(msgpack.ExtType(1, b"\xc1")),
        "{folder}/checkpoint has a damaged array at encoder/encoder_norm/scale; fetch the file again",
    ),
    "an inline array of another shape": (
        norm(inline(np.ones((4, 4), np.float32))),
        "target.encoder.encoder_norm.scale has the shape [4, 4], and should have 1 axes; use a Switch model's",
    ),
    "an inline array of a dtype that is not supported": (
        norm(inline(np.ones(16))),
        "the checkpoint holds dtypes that are not supported: encoder.final_layer_norm.weight (float64); save it as *",
    ),
    "a tensor missing": (
        in_tree(lambda tree: encoder(tree)["layers_1"].pop("pre_mlp_layer_norm")),
        "the checkpoint is incomplete or mixed: it lacks encoder.block.1.layer.1.layer_norm.weight; use an intact one",
    ),
    # Other layouts.
    "scanned layers": (
        in_tree(scanned),
        (
            "{folder}/checkpoint has scanned layers (encoder/layers/subblock_0/*), which are not read; "
            "unstack them in T5X and save the model with scan_layers = False"
        ),
    ),
    "Orbax": (touch("_METADATA"), f"{{folder}}/_METADATA belongs to Orbax's layout, which is not read; {CONVERT}"),
    "Orbax in a folder": (touch("default/_METADATA"), "{folder}/default/_METADATA belongs to Orbax's layout, which *"),
    "Orbax's placeholders": (
        norm("PLACEHOLDER://target.encoder.encoder_norm.scale"),
        "{folder}/checkpoint was written by Orbax (target/encoder/encoder_norm/scale is PLACEHOLDER://*); *",
    ),
    "Orbax's placeholders alone": (
        lambda folder: write_tree(folder, {"params": {"encoder": "PLACEHOLDER://params.encoder"}}),
        f"{{folder}}/checkpoint was written by Orbax, whose layout is not read; {CONVERT}",
    ),
    "OCDBT": (
        touch("manifest.ocdbt"),
        f"{{folder}}/manifest.ocdbt belongs to OCDBT's layout, which is not read; {CONVERT}",
    ),
    # Several checkpoints.
    "Hugging Face's beside it": (
        lambda folder: save_file({"a": np.ones(1)}, folder / "model.safetensors"),
        "{folder} holds two checkpoints, model.safetensors and T5X's arrays; move one of them to a folder of its own",
    ),
}


@pytest.mark.parametrize(("break_it", "sentence"), FOLDERS.values(), ids=FOLDERS.keys())
def test_damage_is_answered_with_one_line(original, tmp_path, capsys, break_it, sentence):
    folder = shutil.copytree(original, tmp_path / "checkpoint_500100")
    break_it(folder)
    command = ["bundle", str(folder), "-o", str(tmp_path / "bundle"), "--tokenizer", str(SPIECE)]
    assert main(command) == 2
    (line,) = [line for line in lines(capsys) if not line.startswith("note: ")]
    assert fits(line, f"pointsman-export: {sentence.replace('{folder}', str(folder))}"), line
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint_500100"}


def test_any_cut_of_the_msgpack_file_is_answered_with_one_line(original, tmp_path):
    data = (original / "checkpoint").read_bytes()
    folder = shutil.copytree(original, tmp_path / "checkpoint_1")
    for size in range(0, len(data), 97):
        (folder / "checkpoint").write_bytes(data[:size])
        with pytest.raises(CheckpointError, match=r"^[^\n]*checkpoint is truncated or damaged msgpack; [^\n]*$"):
            Checkpoint.open(folder)


def test_several_checkpoints_in_one_folder(tmp_path):
    for number in (1, 2, 30):
        write_t5x(tmp_path / f"checkpoint_{number}", {"encoder/encoder_norm/scale": np.ones(2, np.float32)})
    with pytest.raises(CheckpointError) as raised:
        Checkpoint.open(tmp_path)
    assert str(raised.value) == (
        f"{tmp_path} holds 3 checkpoints (checkpoint_1, checkpoint_2, checkpoint_30); "
        f"give the folder of one, such as {tmp_path / 'checkpoint_30'}"
    )


def test_a_chunk_that_is_gone_after_opening(tmp_path):
    values = np.ones((2, 3, 4), np.float32)
    write_t5x(tmp_path, {"encoder/layers_1/mlp/expert/wi/kernel": Zarr(values, (1, 3, 4))})
    with Checkpoint.open(tmp_path) as checkpoint:
        (tmp_path / WI / "1.0.0").unlink()
        checkpoint.read("encoder.block.1.layer.1.mlp.experts.expert_0.wi.weight")
        with pytest.raises(CheckpointError, match=r"1\.0\.0 cannot be read \(No such file or directory\); restore"):
            checkpoint.read("encoder.block.1.layer.1.mlp.experts.expert_1.wi.weight")
