"""Synthetic checkpoints of real shapes: seeded random weights in Hugging Face layout, written without ever being held.

Weights are scaled so that every part of the model has a say in its logits: activations stay in range, tokens spread
over the experts and greedy decoding wanders, as in a trained model and unlike in a freshly initialised one.
Try `python benchmarks/shapes.py switch-base-8 build/switch-base-8`.
"""

import argparse
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from pointsman.bundle import Architecture, Stack, names
from pointsman_export.architecture import expected_tensors
from vocabulary import write_vocabulary

Dtype = Literal["float32", "bfloat16"]
Shapes = dict[str, tuple[int, ...]]

SHARD_BYTES = 1 << 30
_SAFETENSORS = {"float32": ("F32", np.dtype(np.float32)), "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16))}
_EOS = 1
_SHARPNESS = 4.0  # of the logits: the likeliest token stands out, so that arithmetic's last bits decide nothing


def switch(
    *,
    layers: int = 12,
    num_experts: int = 8,
    d_model: int = 768,
    d_ff: int = 3072,
    num_heads: int = 12,
    vocab_size: int = 32128,
    sparse_step: int = 2,
    gated: bool = False,
    tied_head: bool = True,
) -> Architecture:
    """A Switch Transformer, by default like the released base models: every second block sparse, tied head.

    Args:
        layers: blocks of the encoder, and of the decoder.
        num_experts: of each sparse block; 0 makes every block dense.
        d_model: width of the residual stream; heads are 64 wide.
        d_ff: inner width of feed-forward networks.
        num_heads: attention heads.
        vocab_size: rows of the embedding.
        sparse_step: the last of so many blocks is sparse.
        gated: whether feed-forward networks are gated, by gelu.
        tied_head: whether the head is the embedding.
    """
    sparse = tuple(range(sparse_step - 1, layers, sparse_step))
    stack = Stack(layers=layers, sparse_layers=sparse if num_experts else ())
    return Architecture(
        vocab_size=vocab_size,
        d_model=d_model,
        d_kv=64,
        d_ff=d_ff,
        num_heads=num_heads,
        num_experts=num_experts,
        encoder=stack,
        decoder=stack,
        gated=gated,
        activation="gelu_tanh" if gated else "relu",
        router_bias=False,
        tied_head=tied_head,
        relative_buckets=32,
        relative_max_distance=128,
        layer_norm_epsilon=1e-6,
        expert_capacity=64,
        pad_token_id=0,
        eos_token_id=_EOS,
        decoder_start_token_id=0,
    )


def xxl(*, layers: int, num_experts: int) -> Architecture:
    """As wide as switch-xxl-128, which has 24 blocks a stack and 128 experts."""
    return switch(
        layers=layers,
        num_experts=num_experts,
        d_model=4096,
        d_ff=10240,
        num_heads=64,
        gated=True,
        tied_head=False,
    )


def c(*, layers: int, num_experts: int, fraction: int = 1) -> Architecture:
    """As wide as switch-c-2048, which has 15 blocks a stack and 2,048 experts, or a fraction of it."""
    return switch(
        layers=layers,
        num_experts=num_experts,
        d_model=2080 // fraction,
        d_ff=6144 // fraction,
        num_heads=-(-30 // fraction),
        sparse_step=1,
        tied_head=False,
    )


def deep_decoder(*, num_experts: int) -> Architecture:
    """switch-base's decoder with two of its six sparse blocks, behind a short dense encoder: a step has base's size."""
    encoder, decoder = Stack(layers=2, sparse_layers=()), Stack(layers=12, sparse_layers=(1, 7))
    return replace(switch(num_experts=num_experts), encoder=encoder, decoder=decoder)


SHAPES: dict[str, Architecture] = {
    "switch-base-8": switch(),
    "switch-base-128": switch(num_experts=128),
    "dense-base": switch(num_experts=0),
    "2GB-by-blocks": switch(layers=10),
    "8GB-by-blocks": switch(layers=40),
    "2GB-by-experts": switch(layers=10),
    "8GB-by-experts": switch(layers=10, num_experts=40),
    "xxl-16-experts": xxl(layers=2, num_experts=16),
    "c-64-experts": c(layers=1, num_experts=64),
    "c-2048-narrow-experts": c(layers=1, num_experts=2048, fraction=8),
    "deep-decoder-8": deep_decoder(num_experts=8),
    "deep-decoder-32": deep_decoder(num_experts=32),
    "deep-decoder-128": deep_decoder(num_experts=128),
    # For smoke tests of the scripts.
    "tiny": switch(layers=2, d_model=128, d_ff=192, num_heads=2, vocab_size=256),
    "tiny-dense": switch(layers=2, num_experts=0, d_model=128, d_ff=192, num_heads=2, vocab_size=256),
    "tiny-16": switch(layers=2, num_experts=16, d_model=128, d_ff=192, num_heads=2, vocab_size=256),
    "tiny-by-experts": switch(layers=2, num_experts=24, d_model=128, d_ff=192, num_heads=2, vocab_size=256),
    "tiny-gated": switch(layers=2, d_model=128, d_ff=192, num_heads=2, vocab_size=256, gated=True, tied_head=False),
}


def total_bytes(architecture: Architecture, dtype: Dtype = "float32") -> int:
    """Size of all weights."""
    itemsize: int = _SAFETENSORS[dtype][1].itemsize
    return sum(math.prod(shape) for shape in expected_tensors(architecture).values()) * itemsize


def write_checkpoint(
    folder: Path, architecture: Architecture, *, dtype: Dtype = "float32", seed: int = 0, shard_bytes: int = SHARD_BYTES
) -> Path:
    """Write a checkpoint, a few tensors in memory at a time.

    Args:
        folder: where; made if it is not there.
        architecture: what.
        dtype: of the stored weights.
        seed: the same seed gives the same files.
        shard_bytes: largest size of a weight file.

    Returns:
        `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(_published(expected_tensors(architecture)), dtype, shard_bytes)
    weight_map: dict[str, str] = {}
    for number, shapes in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(folder / name, shapes, dtype, seed)
        weight_map |= dict.fromkeys(shapes, name)
    index = {"metadata": {"total_size": total_bytes(architecture, dtype)}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    write_vocabulary(folder, architecture.vocab_size)
    # Last, since its presence says that the rest is complete.
    (folder / "config.json").write_text(json.dumps(_config(architecture), indent=2))
    return folder


def _published(shapes: Shapes) -> Shapes:
    """Under the names that xxl-128 and c-2048 were published with, whose head is the decoder's."""
    return {f"decoder.{name}" if name == names.HEAD else name: shape for name, shape in shapes.items()}


def _shards(shapes: Shapes, dtype: Dtype, shard_bytes: int) -> list[Shapes]:
    shards: list[Shapes] = [{}]
    room = shard_bytes
    for name, shape in shapes.items():
        size = math.prod(shape) * _SAFETENSORS[dtype][1].itemsize
        if size > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = shape
        room -= size
    return shards


def _write_shard(path: Path, shapes: Shapes, dtype: Dtype, seed: int) -> None:
    code, numpy_dtype = _SAFETENSORS[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * numpy_dtype.itemsize
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for content in _ahead(lambda name: _drawn(name, shapes[name], seed).astype(numpy_dtype).tobytes(), shapes):
            file.write(content)


def _ahead(function: Callable[[str], bytes], items: Iterable[str]) -> Iterator[bytes]:
    """Results in order, while a thread for each core works on the next ones."""
    workers = os.cpu_count() or 1
    pending: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _drawn(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """One tensor; its values depend on its name and the seed alone."""
    generator = np.random.Generator(np.random.SFC64([seed, *name.encode()]))
    tensor = generator.standard_normal(shape, np.float32)
    tensor *= np.float32(_deviation(name, shape))
    if name.endswith(f"{names.LAYER_NORM}.weight"):
        tensor += _SHARPNESS if name == f"{names.final_norm('decoder')}.weight" else 1.0
    return tensor


def _deviation(name: str, shape: tuple[int, ...]) -> float:
    """Standard deviations found by trying; those of projections are relative to their input's width."""
    if name.endswith(f"{names.LAYER_NORM}.weight"):
        return 0.1
    if name == names.EMBEDDING:
        return 1.0
    if "relative_attention_bias" in name:
        return 3.0
    gains = {"q": 1.8 / math.sqrt(8), "k": 1.0, "v": 4.0, "o": 4.0}  # heads are 64 wide, and scores not scaled
    return gains.get(name.split(".")[-2], 3.0) / math.sqrt(shape[1])


def _config(architecture: Architecture) -> dict[str, Any]:
    """A config.json that transformers understands; it derives the sparse steps from the numbers of sparse layers."""
    sparse = {name: len(stack.sparse_layers) for name, stack in _stacks(architecture).items()}
    step = {name: stack.layers // sparse[name] if sparse[name] else 0 for name, stack in _stacks(architecture).items()}
    copied = ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_experts", "expert_capacity")
    tokens = ("layer_norm_epsilon", "pad_token_id", "eos_token_id", "decoder_start_token_id")
    return {
        "architectures": ["SwitchTransformersForConditionalGeneration"],
        "model_type": "switch_transformers",
        **{name: getattr(architecture, name) for name in (*copied, *tokens)},
        "num_layers": architecture.encoder.layers,
        "num_decoder_layers": architecture.decoder.layers,
        **{f"num_sparse_{name}_layers": number for name, number in sparse.items()},
        **{f"{name}_sparse_step": number for name, number in step.items()},
        "feed_forward_proj": "gated-gelu" if architecture.gated else "relu",
        "dense_act_fn": "gelu_new" if architecture.gated else "relu",
        "is_gated_act": architecture.gated,
        "router_bias": False,
        "router_dtype": "float32",
        "router_jitter_noise": 0.0,
        "tie_word_embeddings": architecture.tied_head,
        "relative_attention_num_buckets": architecture.relative_buckets,
        "relative_attention_max_distance": architecture.relative_max_distance,
        "is_encoder_decoder": True,
    }


def _stacks(architecture: Architecture) -> dict[str, Stack]:
    return {"encoder": architecture.encoder, "decoder": architecture.decoder}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a synthetic checkpoint of a real shape.")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=_SAFETENSORS, default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    architecture = SHAPES[parsed.shape]
    write_checkpoint(parsed.folder, architecture, dtype=parsed.dtype, seed=parsed.seed)
    print(f"wrote {parsed.folder}: {total_bytes(architecture, parsed.dtype) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
