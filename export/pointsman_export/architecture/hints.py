"""What ``config.json`` says: the values that tensors cannot tell, and where it contradicts the tensors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pointsman.bundle import Activation, Architecture, Stack
from pointsman.errors import CheckpointError

Config = Mapping[str, object]

_PLAIN = "relu"  # where nothing is said
_ACTIVATIONS: Mapping[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """Values that no tensor shows; transformers' defaults where the config is silent."""

    relative_max_distance: int
    layer_norm_epsilon: float
    expert_capacity: int
    pad_token_id: int
    eos_token_id: int
    decoder_start_token_id: int


def read_hints(config: Config, vocab_size: int, relative_buckets: int) -> Hints:
    """Read the values that only the config has.

    Raises:
        CheckpointError: One is not a number, is out of range, or asks for routing to several experts.
    """
    if _integer(config, "num_selected_experts", 1) != 1:
        raise CheckpointError("config.json says num_selected_experts is not 1; Switch routes to one expert")
    ids = ("pad_token_id", 0), ("eos_token_id", 1), ("decoder_start_token_id", 0)
    pad, eos, start = (_token_id(config, key, default, vocab_size) for key, default in ids)
    return Hints(
        relative_max_distance=_max_distance(config, relative_buckets),
        layer_norm_epsilon=_positive(config, "layer_norm_epsilon", 1e-6),
        expert_capacity=_integer(config, "expert_capacity", 64),
        pad_token_id=pad,
        eos_token_id=eos,
        decoder_start_token_id=start,
    )


def read_activation(config: Config, *, gated: bool) -> Activation:
    """The FFN's nonlinearity.

    A gated ``gelu`` is its tanh form, as in T5 v1.1. Where FFNs are gated and the config does not know it, its
    activation cannot be meant for them: then it is that of the published gated model, the tanh form too.

    Raises:
        CheckpointError: The config names an activation that Switch and T5 do not use.
    """
    if gated and not _says_gated(config):
        return "gelu_tanh"
    # Of Switch's own FFNs, transformers reads `dense_act_fn` alone.
    name = str(config.get("dense_act_fn") or (_projection(config)[-1] if gated else _PLAIN))
    if name not in _ACTIVATIONS:
        raise CheckpointError(f"config.json names the activation {name!r}; it must be one of {', '.join(_ACTIVATIONS)}")
    activation = _ACTIVATIONS[name]
    return "gelu_tanh" if gated and activation == "gelu" else activation


def disagreements(config: Config, found: Architecture) -> Iterator[str]:
    """Every point on which the config contradicts the tensors, one sentence each."""
    for key, value in _countable(found).items():
        if key in config and config[key] is not None and config[key] != value:
            yield f"config.json says {key} is {config[key]}, and the weights have {value}."
    yield from _sparse_disagreements(config, "encoder", found.encoder)
    yield from _sparse_disagreements(config, "decoder", found.decoder)
    yield from _feed_forward_disagreements(config, gated=found.gated)
    if str(config.get("router_dtype", "float32")) != "float32":
        yield f"config.json says router_dtype is {config['router_dtype']}, and Pointsman routes in float32."


def says_untied(config: Config) -> bool:
    """Whether the config says that the head is not the embedding."""
    return config.get("tie_word_embeddings") is False


def says_tied(config: Config) -> bool:
    """Whether the config says that it is; that is also what transformers takes it to mean if it says nothing."""
    return config.get("tie_word_embeddings") is True


def _countable(found: Architecture) -> dict[str, int | bool]:
    """Config keys whose values the tensors show, with those values."""
    values: dict[str, int | bool] = {
        "vocab_size": found.vocab_size,
        "d_model": found.d_model,
        "d_kv": found.d_kv,
        "d_ff": found.d_ff,
        "num_heads": found.num_heads,
        "num_layers": found.encoder.layers,
        "num_decoder_layers": found.decoder.layers,
        "num_sparse_encoder_layers": len(found.encoder.sparse_layers),
        "num_sparse_decoder_layers": len(found.decoder.sparse_layers),
        "relative_attention_num_buckets": found.relative_buckets,
    }
    if found.num_experts:
        values |= {"num_experts": found.num_experts, "router_bias": found.router_bias}
    return values


def _sparse_disagreements(config: Config, side: str, stack: Stack) -> Iterator[str]:
    key = f"{side}_sparse_step"
    step = config.get(key)
    if not isinstance(step, int):
        return
    # The rule of transformers' SwitchTransformersStack.
    said = tuple(block for block in range(stack.layers) if step == 1 or (step > 0 and block % step == 1))
    if said != stack.sparse_layers:
        found = _blocks(stack.sparse_layers)
        yield f"config.json says {key} is {step} (sparse blocks: {_blocks(said)}), and the weights have {found}."


def _blocks(numbers: tuple[int, ...]) -> str:
    if len(numbers) > 1 and numbers == tuple(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers)) or "none"


def _feed_forward_disagreements(config: Config, *, gated: bool) -> Iterator[str]:
    if gated and not _says_gated(config):
        yield (
            "config.json does not say that FFNs are gated, and the weights have wi_0 and wi_1: "
            "their activation is taken to be gelu in its tanh form."
        )
    if not gated and _says_gated(config):
        yield "config.json says that FFNs are gated, and the weights have wi alone."
    if not gated and not config.get("dense_act_fn") and (said := _projection(config)[-1]) != _PLAIN:
        yield f"config.json says {said} in feed_forward_proj; without dense_act_fn, transformers computes {_PLAIN}."


def _says_gated(config: Config) -> bool:
    return config.get("is_gated_act") is True or _projection(config)[0] == "gated"


def _projection(config: Config) -> list[str]:
    """The parts of ``feed_forward_proj``: ``["relu"]`` or ``["gated", "gelu"]``."""
    return str(config.get("feed_forward_proj") or _PLAIN).split("-")


def _integer(config: Config, key: str, default: int, minimum: int = 1) -> int:
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise CheckpointError(f"config.json says {key} is {value!r}; it must be an integer of at least {minimum}")
    return value


def _max_distance(config: Config, buckets: int) -> int:
    """The distance from which on all share the last bucket.

    Half of the decoder's buckets, and a quarter in the encoder, are for one distance each; logarithms divide what lies
    between those and this one.
    """
    key = "relative_attention_max_distance"
    distance = _integer(config, key, 128)
    if distance <= buckets // 2:
        raise CheckpointError(
            f"config.json leads to a {key} of {distance}; "
            f"it must be above {buckets // 2}, half of the {buckets} buckets"
        )
    return distance


def _positive(config: Config, key: str, default: float) -> float:
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise CheckpointError(f"config.json says {key} is {value!r}; it must be a number between 0 and 1")
    return float(value)


def _token_id(config: Config, key: str, default: int, vocab_size: int) -> int:
    value = config.get(key)
    if isinstance(value, list) and value:
        # Of several, T5's own; all of them end what is generated.
        config = {key: default if default in value else value[0]}
    token = _integer(config, key, default, minimum=0)
    if token >= vocab_size:
        raise CheckpointError(f"config.json says {key} is {token}; it must be below the {vocab_size} of the vocabulary")
    return token
