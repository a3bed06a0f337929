"""An engine that computes nothing: it keeps caches as a real one must, and asks a function for the logits."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pointsman.backends.own_states import OwnStates

Ids = tuple[int, ...]
Logits = Callable[[Ids, Ids], NDArray[np.float32]]
"""From a source without its padding, and the decoder's tokens so far, start token included."""


class FakeBackend:
    """A backend whose logits are `logits(source, prefix)`."""

    engine = "fake 1"
    device = "cpu"
    most_positions = None

    def __init__(self, logits: Logits) -> None:
        self.logits = logits
        self.encoded: list[list[Ids]] = []
        self.fed: list[tuple[int, int]] = []  # rows and positions of each step

    def encode(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], *, rows: int, room: int
    ) -> "FakeState":
        assert input_ids.shape == attention_mask.shape
        assert rows % len(input_ids) == 0
        sources = [tuple(ids[mask == 1].tolist()) for ids, mask in zip(input_ids, attention_mask, strict=True)]
        self.encoded.append(sources)
        return FakeState(self, [source for source in sources for _ in range(rows // len(sources))], room)

    def stepper(self, *, shared: bool = True) -> OwnStates:
        return OwnStates(self)


class FakeState:
    """The rows of one request."""

    def __init__(self, backend: FakeBackend, sources: list[Ids], room: int) -> None:
        self.backend, self.sources, self.room = backend, sources, room
        self.prefixes: list[Ids] = [()] * len(sources)

    def step(self, token_ids: NDArray[np.int64], beam_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        self.backend.fed.append(token_ids.shape)
        before = [self.prefixes[row] for row in beam_rows]
        self.prefixes = [(*prefix, *ids) for prefix, ids in zip(before, token_ids.tolist(), strict=True)]
        first = len(before[0]) + 1
        assert len(self.prefixes[0]) <= self.room
        return np.stack(
            [
                [self.backend.logits(source, prefix[:end]) for end in range(first, len(prefix) + 1)]
                for source, prefix in zip(self.sources, self.prefixes, strict=True)
            ]
        )


def wandering(vocab_size: int, seed: int = 0) -> Logits:
    """Logits that look random and depend on every token of source and prefix."""

    def logits(source: Ids, prefix: Ids) -> NDArray[np.float32]:
        random = np.random.default_rng([seed, len(source), *source, *prefix])
        return (3 * random.standard_normal(vocab_size)).astype(np.float32)

    return logits


def saying(vocab_size: int, *scripts: Sequence[int]) -> Logits:
    """Logits that favour a script, the second script less and so on; after a script's end, eos (id 1)."""

    def logits(source: Ids, prefix: Ids) -> NDArray[np.float32]:
        favoured = np.zeros(vocab_size, np.float32)
        said = prefix[1:]
        for rank, script in enumerate(scripts):
            if tuple(script[: len(said)]) == said:
                following = script[len(said)] if len(said) < len(script) else 1
                favoured[following] = max(favoured[following], 8 - rank)
        return favoured

    return logits
