"""A Switch Transformer in plain numpy: one sequence at a time, no padding, no batching, no cleverness.

It computes in float64 what the papers define (Raffel et al. 2020; Fedus et al. 2021; gated networks as in Shazeer
2020), and `test_forms` holds it to transformers wherever transformers can express the model. It is what the exported
graphs are compared with where transformers cannot.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pointsman.bundle import Architecture

Array = NDArray[np.float64]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "silu": lambda x: x / (1.0 + np.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0))),
    "gelu_tanh": lambda x: 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
}


def bucket(distance: int, *, bidirectional: bool, buckets: int, max_distance: int) -> int:
    """T5's bucket of one distance, key minus query; logarithms in float32 as the reference takes them."""
    first = 0
    if bidirectional:
        buckets //= 2
        first = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    share = np.log(np.float32(distance) / np.float32(exact)) / np.float32(math.log(max_distance / exact))
    return first + min(exact + int(share * np.float32(buckets - exact)), buckets - 1)


def softmax(scores: Array) -> Array:
    """Over the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def feed_forward(hidden: Array, inputs: Sequence[Array], wo: Array, activation: str) -> Array:
    """`[tokens, d_model]` to the same; weights `[out, in]`."""
    inner = ACTIVATIONS[activation](hidden @ inputs[0].T)
    for gate in inputs[1:]:
        inner = inner * (hidden @ gate.T)
    return inner @ wo.T


class NumpySwitch:
    """The model.

    Args:
        architecture: Sizes and constants.
        weights: By canonical name, as a checkpoint orients them.
        capacity: Tokens an expert accepts from one sequence at a time; None for no limit.
    """

    def __init__(self, architecture: Architecture, weights: Mapping[str, Array], capacity: int | None) -> None:
        self.architecture = architecture
        self.weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
        self.capacity = capacity
        self.dropped = 0
        self.narrowest_choice = math.inf  # difference of the two likeliest experts' logits, over all tokens so far

    def encode(self, ids: Sequence[int]) -> Array:
        """The encoder's states, `[tokens, d_model]`."""
        hidden = self.weights["shared.weight"][list(ids)]
        bias = self.position_bias("encoder", range(len(ids)), range(len(ids)))
        for block in range(self.architecture.encoder.layers):
            name = f"encoder.block.{block}.layer"
            normed = self.norm(hidden, f"{name}.0.layer_norm")
            hidden = hidden + self.attend(
                normed, *self.keys_values(normed, f"{name}.0.SelfAttention"), bias, f"{name}.0.SelfAttention"
            )
            hidden = self.add_feed_forward(hidden, f"{name}.1", sparse=block in self.architecture.encoder.sparse_layers)
        return self.norm(hidden, "encoder.final_layer_norm")

    def decode(self, states: Array, *calls: Sequence[int]) -> Array:
        """Logits after each token, `[tokens, vocab]`, where the decoder is fed the tokens of one call after another.

        How they are cut into calls matters where capacity does: an expert accepts so many tokens from each call.
        """
        cache: dict[str, tuple[Array, Array]] = {}
        start, logits = 0, []
        for ids in calls:
            logits.append(self.step(states, ids, start, cache))
            start += len(ids)
        return np.concatenate(logits)

    def step(self, states: Array, ids: Sequence[int], start: int, cache: dict[str, tuple[Array, Array]]) -> Array:
        """Logits of one call; `cache` holds keys and values so far and is grown."""
        hidden = self.weights["shared.weight"][list(ids)]
        queries, keys = range(start, start + len(ids)), range(start + len(ids))
        self_bias = self.position_bias("decoder", queries, keys)
        self_bias[:, np.array(keys)[None, :] > np.array(queries)[:, None]] = -np.inf
        for block in range(self.architecture.decoder.layers):
            name = f"decoder.block.{block}.layer"
            normed = self.norm(hidden, f"{name}.0.layer_norm")
            cache[name] = self.grown(cache.get(name), self.keys_values(normed, f"{name}.0.SelfAttention"))
            hidden = hidden + self.attend(normed, *cache[name], self_bias, f"{name}.0.SelfAttention")
            normed = self.norm(hidden, f"{name}.1.layer_norm")
            cross = self.keys_values(states, f"{name}.1.EncDecAttention")
            hidden = hidden + self.attend(normed, *cross, np.zeros(1), f"{name}.1.EncDecAttention")
            hidden = self.add_feed_forward(hidden, f"{name}.2", sparse=block in self.architecture.decoder.sparse_layers)
        hidden = self.norm(hidden, "decoder.final_layer_norm")
        if self.architecture.tied_head:
            return hidden * self.architecture.d_model**-0.5 @ self.weights["shared.weight"].T
        return hidden @ self.weights["lm_head.weight"].T

    def norm(self, hidden: Array, name: str) -> Array:
        """Root mean square norm."""
        mean_square = (hidden**2).mean(axis=-1, keepdims=True)
        return hidden / np.sqrt(mean_square + self.architecture.layer_norm_epsilon) * self.weights[f"{name}.weight"]

    def position_bias(self, side: str, queries: Sequence[int], keys: Sequence[int]) -> Array:
        """`[heads, queries, keys]`."""
        table = self.weights[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        bias = np.empty((self.architecture.num_heads, len(queries), len(keys)))
        for row, query in enumerate(queries):
            for column, key in enumerate(keys):
                bias[:, row, column] = table[
                    bucket(
                        key - query,
                        bidirectional=side == "encoder",
                        buckets=self.architecture.relative_buckets,
                        max_distance=self.architecture.relative_max_distance,
                    )
                ]
        return bias

    def keys_values(self, hidden: Array, name: str) -> tuple[Array, Array]:
        """Keys and values, each `[heads, tokens, d_kv]`."""
        return self.heads(hidden, f"{name}.k"), self.heads(hidden, f"{name}.v")

    def heads(self, hidden: Array, name: str) -> Array:
        """A projection, `[heads, tokens, d_kv]`."""
        projected = hidden @ self.weights[f"{name}.weight"].T
        return projected.reshape(len(hidden), self.architecture.num_heads, -1).swapaxes(0, 1)

    @staticmethod
    def grown(past: tuple[Array, Array] | None, new: tuple[Array, Array]) -> tuple[Array, Array]:
        """Keys and values with those of more tokens."""
        if past is None:
            return new
        return np.concatenate([past[0], new[0]], axis=1), np.concatenate([past[1], new[1]], axis=1)

    def attend(self, hidden: Array, keys: Array, values: Array, bias: Array, name: str) -> Array:
        """Attention without scaling, `[tokens, d_model]`."""
        queries = self.heads(hidden, f"{name}.q")
        probabilities = softmax(queries @ keys.swapaxes(1, 2) + bias)
        attended = (probabilities @ values).swapaxes(0, 1).reshape(len(hidden), -1)
        return attended @ self.weights[f"{name}.o.weight"].T

    def add_feed_forward(self, hidden: Array, name: str, *, sparse: bool) -> Array:
        """The last layer of a block."""
        normed = self.norm(hidden, f"{name}.layer_norm")
        return hidden + (self.experts(normed, f"{name}.mlp") if sparse else self.network(normed, f"{name}.mlp"))

    def network(self, hidden: Array, name: str) -> Array:
        """One feed-forward network."""
        inputs = ("wi_0", "wi_1") if self.architecture.gated else ("wi",)
        weights = [self.weights[f"{name}.{projection}.weight"] for projection in inputs]
        return feed_forward(hidden, weights, self.weights[f"{name}.wo.weight"], self.architecture.activation)

    def experts(self, hidden: Array, name: str) -> Array:
        """The likeliest expert for each token in turn, while it accepts any."""
        logits = hidden @ self.weights[f"{name}.router.classifier.weight"].T
        logits = logits + self.weights.get(f"{name}.router.classifier.bias", 0.0)
        accepted = [0] * self.architecture.num_experts
        output = np.zeros_like(hidden)
        for token, probabilities in enumerate(softmax(logits)):
            ranked = np.sort(logits[token])
            self.narrowest_choice = min(self.narrowest_choice, ranked[-1] - ranked[-2])
            expert = int(probabilities.argmax())
            if self.capacity is not None and accepted[expert] == self.capacity:
                self.dropped += 1
                continue
            accepted[expert] += 1
            output[token] = (
                probabilities[expert] * self.network(hidden[token : token + 1], f"{name}.experts.expert_{expert}")[0]
            )
        return output
