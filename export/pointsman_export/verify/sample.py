"""What graphs and reference are fed."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pointsman.bundle import cache_capacity
from pointsman_export.network import Build

SOURCE, ROWS_PER_INPUT, POSITIONS, PAST = 24, 2, 3, 4
CAPACITY = cache_capacity(PAST + POSITIONS)


@dataclass(frozen=True)
class Sample:
    """What graphs and reference are fed."""

    input_ids: Tensor
    attention_mask: Tensor
    decoder_ids: Tensor
    past: list[tuple[Tensor, Tensor]]
    cross: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def draw(cls, build: Build) -> "Sample":
        """Two inputs, one shorter; two rows each; a few positions after a past of random keys and values."""
        architecture, generator = build.architecture, torch.Generator().manual_seed(0)
        rows = 2 * ROWS_PER_INPUT

        def ids(*shape: int) -> Tensor:
            return torch.randint(
                min(3, architecture.vocab_size - 1), architecture.vocab_size, shape, generator=generator
            )

        mask = torch.ones(2, SOURCE, dtype=torch.int64)
        mask[1, SOURCE * 2 // 3 :] = 0
        shape = (rows, architecture.num_heads, PAST, architecture.d_kv)
        dtype: torch.dtype = getattr(torch, build.precision.name)
        past = [
            tuple(torch.randn(shape, generator=generator).to(dtype).float() for _ in range(2))
            for _ in range(architecture.decoder.layers)
        ]
        padded = torch.where(mask == 1, ids(2, SOURCE), architecture.pad_token_id)
        return cls(padded, mask, ids(rows, POSITIONS), past)  # type: ignore[arg-type]
