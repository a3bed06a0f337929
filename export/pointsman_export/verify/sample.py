"""What graphs and reference are fed."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pointsman.bundle import cache_capacity
from pointsman_export.network import Build

Experts = Literal["sample", "all"]
"""Which experts of a layer are compared: some, or one after the other all of them."""

ROWS_PER_INPUT, POSITIONS, PAST = 2, 3, 4
CAPACITY = cache_capacity(PAST + POSITIONS)
AT_A_TIME = 4
_MOST_SOURCE, _LEAST_SOURCE = 24, 4
_BUCKET_BYTES = 64 << 20  # of the portable encoder: it has room for every token in each of its experts


@dataclass(frozen=True)
class Sample:
    """What graphs and reference are fed.

    Attributes:
        input_ids: int64 [inputs, source]; those behind a shorter input are padding.
        attention_mask: int64 [inputs, source].
        decoder_ids: int64 [rows, positions].
        past: for each decoder layer float32 keys and values, [rows, heads, tokens, d_kv] each.
        num_experts: of a sparse layer.
        experts: which of them tokens are sent to.
    """

    input_ids: Tensor
    attention_mask: Tensor
    decoder_ids: Tensor
    past: list[tuple[Tensor, Tensor]]
    num_experts: int
    experts: Experts

    @classmethod
    def draw(cls, build: Build, experts: Experts = "sample") -> "Sample":
        """Two inputs, one shorter; two rows each; a few positions after a past of random keys and values."""
        architecture, generator = build.architecture, torch.Generator().manual_seed(0)
        rows, source = 2 * ROWS_PER_INPUT, _source(build)

        def ids(*shape: int) -> Tensor:
            return torch.randint(
                min(3, architecture.vocab_size - 1), architecture.vocab_size, shape, generator=generator
            )

        mask = torch.ones(2, source, dtype=torch.int64)
        mask[1, source * 2 // 3 :] = 0
        shape = (rows, architecture.num_heads, PAST, architecture.d_kv)
        dtype: torch.dtype = getattr(torch, build.precision.name)
        past = [
            tuple(torch.randn(shape, generator=generator).to(dtype).float() for _ in range(2))
            for _ in range(architecture.decoder.layers)
        ]
        padded = torch.where(mask == 1, ids(2, source), architecture.pad_token_id)
        return cls(padded, mask, ids(rows, POSITIONS), past, architecture.num_experts, experts)  # type: ignore[arg-type]

    @property
    def described(self) -> str:
        """Which experts are compared, as the end of a sentence; nothing where there is no other way."""
        if self.num_experts <= AT_A_TIME:
            return ""
        some = f"{AT_A_TIME} of {self.num_experts}" if self.experts == "sample" else f"all {self.num_experts}"
        return f", {some} experts of each layer"

    def assignments(self, layer: str, rows: int, tokens: int) -> Iterator[Tensor]:
        """Which experts the tokens of a sparse layer are sent to, whatever its router chooses.

        Args:
            layer: its path, which seeds the choice.
            rows: of tokens.
            tokens: of a row.

        Yields:
            int64 [rows, tokens]: all of a few experts have tokens, and one of them has all of some row, more than
            small capacities let pass.
        """
        order = np.random.default_rng(zlib.crc32(layer.encode())).permutation(self.num_experts)
        groups = [order[start : start + AT_A_TIME] for start in range(0, len(order), AT_A_TIME)]
        for group in groups if self.experts == "all" else groups[:1]:
            turns = [
                [row // 2] * tokens if row % 2 else range(tokens * (row // 2), tokens * (row // 2 + 1))
                for row in range(rows)
            ]
            yield torch.from_numpy(group[np.array(turns) % len(group)])


def _source(build: Build) -> int:
    """Tokens of the longer input."""
    architecture = build.architecture
    fitting = _BUCKET_BYTES // (2 * 4 * architecture.d_model * max(architecture.num_experts, 1))
    return min(max(fitting, _LEAST_SOURCE), _MOST_SOURCE)
