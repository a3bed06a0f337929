"""A stand-in for a model: logits that depend on nothing but the prefix."""

import numpy as np
from numpy.typing import NDArray

from pointsman.decoding import SpecialTokens

TOKENS = SpecialTokens(pad_id=0, eos_ids=(1,), decoder_start_id=0)
VOCABULARY = 40
ALL_SENTINELS = range(39, 29, -1)


class Always:
    """A state whose logits are always the same `[vocabulary]`."""

    def __init__(self, logits: NDArray[np.float32]) -> None:
        self._logits = logits

    def step(self, token_ids: NDArray[np.int64], beam_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.tile(self._logits, (*token_ids.shape, 1))


class RandomNetwork:
    """Follows beams as an engine must, and derives each row's logits from its input and prefix."""

    def __init__(
        self, rows_per_input: int, seed: int = 0, bias: dict[int, float] | None = None, input_ids: tuple[int, ...] = ()
    ) -> None:
        self._rows_per_input = rows_per_input
        self._seed = seed
        self._bias = bias or {}
        self._input_ids = input_ids
        self._prefixes: list[tuple[int, ...]] = []
        self._given = np.zeros(0, np.float32)
        self.fed: list[list[int]] = []

    def step(self, token_ids: NDArray[np.int64], beam_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        assert token_ids.flags.c_contiguous
        assert beam_rows.flags.c_contiguous
        before = self._prefixes or [()] * len(token_ids)
        self._prefixes = [
            (*before[parent], *tokens) for parent, tokens in zip(beam_rows.tolist(), token_ids.tolist(), strict=True)
        ]
        self.fed.append(token_ids[:, -1].tolist())
        self._given.fill(np.nan)  # an engine's buffer is decoding's to read and write until the next step only
        self._given = np.stack([self._of_row(row, token_ids.shape[1]) for row in range(len(token_ids))])
        return self._given

    def _of_row(self, row: int, positions: int) -> list[NDArray[np.float32]]:
        prefix = self._prefixes[row]
        return [self._logits(row, prefix[:end]) for end in range(len(prefix) - positions + 1, len(prefix) + 1)]

    def _logits(self, row: int, prefix: tuple[int, ...]) -> NDArray[np.float32]:
        index = row // self._rows_per_input
        identity = self._input_ids[index] if self._input_ids else index
        rng = np.random.default_rng([self._seed, identity, *prefix])
        logits = rng.normal(scale=2.0, size=VOCABULARY).astype(np.float32)
        for token, bias in self._bias.items():
            logits[token] += bias
        return logits
