"""What two ways of loading a bundle are compared by, to the last bit."""

from collections.abc import Iterator
from typing import Any

import onnx

from pointsman import DecodingOptions, SwitchModel

INPUTS = [[5, 9, 33, 7, 1], [40, 8, 8, 21, 60, 3, 12, 1], [17, 1]]
PLENTY = 1 << 40
"""Of memory, in bytes."""


def answers(model: SwitchModel) -> Any:
    """Tokens and scores of searches, and scores of given targets."""
    found = []
    for options in (DecodingOptions(max_new_tokens=12), DecodingOptions(max_new_tokens=8, num_beams=3)):
        found += [(one.token_ids, one.score) for (one,) in model.generate(INPUTS, options)]
    return found, [scores.tobytes() for scores in model.score(INPUTS, INPUTS)]


def branches(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside a graph, at any depth."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
                yield from branches(attribute.g)
