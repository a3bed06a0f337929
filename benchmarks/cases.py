"""What contestants are asked to do."""

from dataclasses import dataclass

import numpy as np

FIRST_ORDINARY_ID, SENTINELS_AND_SPARE, EOS = 3, 128, 1


@dataclass(frozen=True, slots=True)
class Case:
    """One request.

    Attributes:
        name: in results.
        batch: inputs.
        source: tokens of each, eos included.
        new_tokens: to generate for each, neither more nor fewer; 0 to run the encoder alone.
        beams: 1 for greedy search.
    """

    name: str
    batch: int = 1
    source: int = 64
    new_tokens: int = 32
    beams: int = 1

    def input_ids(self, vocab_size: int) -> list[list[int]]:
        """Ordinary tokens, the same for every contestant; eos ends each input."""
        generator = np.random.default_rng(self.source)
        shape = (self.batch, self.source - 1)
        ids = generator.integers(FIRST_ORDINARY_ID, vocab_size - SENTINELS_AND_SPARE, shape)
        return [[*row, EOS] for row in ids.tolist()]

    def to_json(self) -> dict[str, int]:
        """What is asked, for results."""
        return {"batch": self.batch, "source": self.source, "new_tokens": self.new_tokens, "beams": self.beams}


CASES = (
    Case("greedy"),
    Case("batch 8", batch=8),
    Case("4 beams", beams=4),
    Case("batch 8 x 4 beams", batch=8, beams=4),
    Case("first token", new_tokens=1),
    Case("encoder 16", source=16, new_tokens=0),
    Case("encoder 64", new_tokens=0),
    Case("encoder 512", source=512, new_tokens=0),
)
GPU_CASES = (
    Case("greedy"),
    Case("batch 8", batch=8),
    Case("batch 32", batch=32),
    Case("4 beams", beams=4),
    Case("encoder 64", new_tokens=0),
    Case("encoder 512", source=512, new_tokens=0),
)
QUICK_CASES = (
    Case("greedy", source=12, new_tokens=4),
    Case("batch 8", batch=8, source=12, new_tokens=4),
    Case("4 beams", source=12, new_tokens=4, beams=4),
    Case("batch 8 x 4 beams", batch=8, source=12, new_tokens=4, beams=4),
    Case("first token", source=12, new_tokens=1),
    Case("encoder 16", source=16, new_tokens=0),
    Case("encoder 64", new_tokens=0),
    Case("encoder 512", source=512, new_tokens=0),
)
