"""A block: attention, and a feed-forward network."""

from torch import nn

from pointsman.bundle import Role
from pointsman_export.network.attention import CrossAttentionLayer, SelfAttentionLayer
from pointsman_export.network.build import Build
from pointsman_export.network.feed_forward import DenseFeedForward, ExpertReader, FeedForwardLayer, SparseFeedForward


class Block(nn.Module):
    """One block of a stack; `layer` holds self-attention, in a decoder cross-attention, and feed-forward.

    Args:
        build: sizes and capacity.
        role: whose block it is.
        number: which of the stack's.
        experts: weights of its experts, if it has any.
    """

    def __init__(self, build: Build, role: Role, number: int, experts: ExpertReader) -> None:
        super().__init__()
        architecture = build.architecture
        layers: list[nn.Module] = [SelfAttentionLayer(architecture)]
        if role == "decoder":
            layers.append(CrossAttentionLayer(architecture))
        sparse = number in architecture.stack(role).sparse_layers
        mlp = SparseFeedForward(architecture, build.capacity, experts) if sparse else DenseFeedForward(architecture)
        self.layer = nn.ModuleList([*layers, FeedForwardLayer(architecture, mlp)])
