"""Relative positions as T5 has them: distances in buckets, and a bias for each bucket and head."""

import math

import torch
from torch import Tensor, nn

from pointsman.bundle import Architecture


def relative_buckets(distance: Tensor, *, bidirectional: bool, buckets: int, max_distance: int) -> Tensor:
    """T5's bucket of each key position relative to its query.

    Raffel et al. 2020, §2.1; the order of operations is that of Mesh TensorFlow's `_relative_position_bucket`, since
    folding its constants moves some distances by one bucket.

    Args:
        distance: int64, any shape: key position minus query position.
        bidirectional: whether keys after the query get buckets of their own.
        buckets: how many there are.
        max_distance: all distances from here on share the last bucket.

    Returns:
        int64 in [0, buckets), the shape of `distance`.
    """
    offset = torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = (distance > 0).long() * buckets
        distance = distance.abs()
    else:
        distance = -torch.clamp(distance, max=0)
    exact = buckets // 2
    far = torch.log(distance.float() / exact) / math.log(max_distance / exact) * (buckets - exact)
    far = torch.clamp(exact + torch.clamp(far, min=0).long(), max=buckets - 1)
    return offset + torch.where(distance < exact, distance, far)


def bucket_table(architecture: Architecture, *, bidirectional: bool) -> Tensor:
    """The bucket of every distance from -max_distance to max_distance, int64; farther ones share the ends."""
    reach = architecture.relative_max_distance
    return relative_buckets(
        torch.arange(-reach, reach + 1),
        bidirectional=bidirectional,
        buckets=architecture.relative_buckets,
        max_distance=reach,
    )


class RelativeBias(nn.Module):
    """The bias that all blocks of a stack add to their attention scores."""

    def __init__(self, architecture: Architecture, *, bidirectional: bool) -> None:
        super().__init__()
        shape = (architecture.relative_buckets, architecture.num_heads)
        self.weight = nn.Parameter(torch.empty(shape), requires_grad=False)
        self.reach = architecture.relative_max_distance
        self.bucket_of = bucket_table(architecture, bidirectional=bidirectional)

    def forward(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Bias [1, heads, queries, keys]."""
        distance = key_positions[None, :] - query_positions[:, None]
        bucket = self.bucket_of[torch.clamp(distance, -self.reach, self.reach) + self.reach]
        return self.weight[bucket].permute(2, 0, 1).unsqueeze(0)
