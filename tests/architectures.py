"""Architectures that tests start from."""

from pointsman.bundle import Architecture, Stack

BASE_8 = Architecture(
    vocab_size=32128,
    d_model=768,
    d_kv=64,
    d_ff=3072,
    num_heads=12,
    num_experts=8,
    encoder=Stack(layers=12, sparse_layers=(1, 3, 5, 7, 9, 11)),
    decoder=Stack(layers=12, sparse_layers=(1, 3, 5, 7, 9, 11)),
    gated=False,
    activation="relu",
    router_bias=False,
    tied_head=True,
    relative_buckets=32,
    relative_max_distance=128,
    layer_norm_epsilon=1e-6,
    expert_capacity=64,
    pad_token_id=0,
    eos_token_id=1,
    decoder_start_token_id=0,
)
"""switch-base-8."""
