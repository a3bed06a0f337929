"""Shapes of the published models, and derivations from shapes alone."""

from collections.abc import Callable
from dataclasses import replace

from architectures import BASE_8
from checkpoints import CHECKPOINTS
from pointsman.bundle import Architecture, Stack
from pointsman_export.architecture import Derivation, derive, expected_tensors
from pointsman_export.checkpoint import TensorInfo

ODD_BLOCKS = tuple(range(1, 24, 2))
ALL_15 = Stack(layers=15, sparse_layers=tuple(range(15)))
C_2048 = replace(
    BASE_8,
    d_model=2080,
    d_ff=6144,
    num_heads=30,
    num_experts=2048,
    encoder=ALL_15,
    decoder=ALL_15,
    tied_head=False,
)
LARGE = Stack(layers=24, sparse_layers=ODD_BLOCKS)
LARGE_128 = replace(BASE_8, d_model=1024, d_ff=4096, num_heads=16, num_experts=128, encoder=LARGE, decoder=LARGE)
XXL_128 = replace(
    LARGE_128, d_model=4096, d_ff=10240, num_heads=64, gated=True, activation="gelu_tanh", tied_head=False
)


def infos(architecture: Architecture) -> dict[str, TensorInfo]:
    return {name: TensorInfo(name, shape, "float32") for name, shape in expected_tensors(architecture).items()}


def different(first: str, second: str) -> bool:
    return False


def equal(first: str, second: str) -> bool:
    return True


def unasked(first: str, second: str) -> bool:
    raise AssertionError(f"{first} and {second} need no comparison")


def derived(change: Callable[[dict[str, TensorInfo]], object], **config: object) -> Derivation:
    tensors = infos(CHECKPOINTS["tied"].architecture)
    change(tensors)
    return derive(tensors, CHECKPOINTS["tied"].config | config, same_values=different)
