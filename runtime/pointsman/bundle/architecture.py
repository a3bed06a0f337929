"""The sizes and constants of one Switch Transformer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from pointsman.bundle import names

if TYPE_CHECKING:
    from pointsman.bundle.interface import Role

Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]

_FLOAT32: Final = 4  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """An encoder's or decoder's blocks.

    Attributes:
        layers: how many blocks.
        sparse_layers: numbers of the blocks whose feed-forward network is a Mixture of Experts.
    """

    layers: int
    sparse_layers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The sizes and constants of one Switch Transformer.

    Attributes:
        vocab_size: rows of the embedding.
        d_model: width of the residual stream.
        d_kv: width of one attention head.
        d_ff: inner width of a feed-forward network.
        num_heads: attention heads.
        num_experts: experts of each sparse block; 0 where no block is sparse.
        encoder: the encoder's blocks.
        decoder: the decoder's blocks.
        gated: whether a feed-forward network multiplies two input projections (GEGLU).
        activation: of the (first) input projection; `gelu_tanh` is T5 v1.1's `gelu_new`.
        router_bias: whether routers have a bias.
        tied_head: whether the output head is the decoder's embedding; its input is then scaled by d_model ** -0.5.
        relative_buckets: buckets of the relative position bias.
        relative_max_distance: tokens; distances from here on share the last bucket.
        layer_norm_epsilon: added to the mean square in norms.
        expert_capacity: tokens that an expert accepts from one sequence; None where the checkpoint has no such number,
            as those that T5X wrote have none.
        pad_token_id: id of padding.
        eos_token_id: id that ends a sequence.
        decoder_start_token_id: id that the decoder starts from.
        separate_embeddings: whether encoder and decoder have an embedding each.
        scaled_head: whether the input of a head that is not the decoder's embedding is scaled all the same.
    """

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_heads: int
    num_experts: int
    encoder: Stack
    decoder: Stack
    gated: bool
    activation: Activation
    router_bias: bool
    tied_head: bool
    relative_buckets: int
    relative_max_distance: int
    layer_norm_epsilon: float
    expert_capacity: int | None
    pad_token_id: int
    eos_token_id: int
    decoder_start_token_id: int
    separate_embeddings: bool = False
    scaled_head: bool = False

    @property
    def token_bytes(self) -> int:
        """What one token's keys and values take in float32: of an input, or of a row of the decoder."""
        return self.decoder.layers * 2 * self.num_heads * self.d_kv * _FLOAT32

    def stack(self, role: "Role") -> Stack:
        """The encoder's blocks or the decoder's."""
        return self.encoder if role == "encoder" else self.decoder

    def embedding(self, role: "Role") -> str:
        """Name of the weight that the encoder or the decoder looks ids up in."""
        return names.STACK_EMBEDDINGS[role] if self.separate_embeddings else names.EMBEDDING
