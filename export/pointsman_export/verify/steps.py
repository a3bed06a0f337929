"""What the reference makes of a sample, in steps that a written graph can be compared in."""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from pointsman.bundle import Role, attending, names
from pointsman_export.network.attention import Pair
from pointsman_export.verify.reference import BlockResult, Reference
from pointsman_export.verify.sample import CAPACITY, PAST, Sample

Values = Mapping[str, Tensor]

_CACHE_AXES = 4
_OF_ALL_POSITIONS = {names.ATTENTION_MASK, names.LENGTHS, names.CACHE_POSITIONS, names.ATTENDING_QUERIES}


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a graph, under the names that its values have there.

    Attributes:
        role: which graph.
        name: of the part; a sparse block has several parts.
        feeds: what the reference was given; more than the part may need.
        wanted: what it made of that.
        routed: of a sparse block's attention, the name of the value that holds the router's choice, and int64
            [rows, tokens].
        layer: path of the experts, where the part is nothing but them; feeds say which are meant.
    """

    role: Role
    name: str
    feeds: Values
    wanted: Values
    routed: tuple[str, Tensor] | None = None
    layer: str | None = None

    @property
    def first_position(self) -> "Step":
        """Of a decoder's part, what concerns the first of the positions that are fed."""
        feeds = {name: value if name in _OF_ALL_POSITIONS else _first(value) for name, value in self.feeds.items()}
        if names.ATTENDED_PLACES in feeds:
            batch, heads, _ = self.feeds[names.ATTENDING_QUERIES].shape
            feeds |= _given(len(feeds[names.INPUT_IDS]), batch, heads, positions=1)
        wanted = {
            name: _first(value) if value.ndim < _CACHE_AXES else _cut(value) for name, value in self.wanted.items()
        }
        routed = self.routed and (self.routed[0], _first(self.routed[1]))
        return replace(self, feeds=feeds, wanted=wanted, routed=routed)


def steps(reference: Reference, sample: Sample) -> Iterator[Step]:
    """All parts of both graphs in order. Each is computed once and forgotten."""
    feeds: Values = {names.INPUT_IDS: sample.input_ids, names.ATTENTION_MASK: sample.attention_mask}
    results = reference.encode(sample.input_ids, sample.attention_mask)
    stream = yield from _blocks("encoder", results, feeds)
    cross = []
    for number, pair in enumerate(reference.cross(next(iter(stream.values())))):
        wanted = dict(zip(names.cross_names(number), pair, strict=True))
        yield Step("encoder", names.cross_names(number)[0], {**feeds, **stream}, wanted)
        cross.append(pair)
    yield from _decoder(reference, sample, cross)


def _decoder(reference: Reference, sample: Sample, cross: list[Pair]) -> Iterator[Step]:
    rows, positions = sample.decoder_ids.shape
    feeds: dict[str, Tensor] = {
        names.INPUT_IDS: sample.decoder_ids,
        names.ATTENTION_MASK: sample.attention_mask,
        names.LENGTHS: torch.full((rows,), PAST),
        names.CACHE_POSITIONS: torch.arange(CAPACITY),
        **_given(rows, len(sample.input_ids), sample.past[0][0].shape[1], positions=positions),
    }
    for number, (past_pair, cross_pair) in enumerate(zip(sample.past, cross, strict=True)):
        feeds |= zip(names.past_names(number), map(_with_room, past_pair), strict=True)
        feeds |= zip(names.cross_names(number), cross_pair, strict=True)
    results = reference.decode(sample.decoder_ids, sample.attention_mask, cross, sample.past)
    stream = yield from _blocks("decoder", results, feeds)
    logits = reference.logits(next(iter(stream.values())))
    yield Step("decoder", names.LOGITS, {**feeds, **stream}, {names.LOGITS: logits})


def _first(value: Tensor) -> Tensor:
    """The first position of [rows, positions, ...]; a cache as it is."""
    return value if value.ndim == _CACHE_AXES else value[:, :1]


def _cut(cached: Tensor) -> Tensor:
    """What a cache holds behind the first position."""
    cut = cached.clone()
    cut[:, :, PAST + 1 :] = 0
    return cut


def _given(rows: int, batch: int, heads: int, positions: int) -> Values:
    """Which queries attend to which input; rows of an input lie together."""
    inputs = np.repeat(np.arange(batch), rows // batch)
    given = attending(inputs, batch, heads=heads, positions=positions)
    return {name: torch.from_numpy(array) for name, array in given.items()}


def _with_room(cached: Tensor) -> Tensor:
    """Keys or values as graphs hold them: with zeros up to the cache's capacity."""
    return nn.functional.pad(cached, (0, 0, 0, CAPACITY - cached.shape[2]))


def _blocks(role: Role, results: Iterator[BlockResult], feeds: Values) -> Generator[Step, None, Values]:
    """Steps for each block, fed what the block before it handed on; returns what the last one handed on."""
    stream: Values = {}
    for number, result in enumerate(results):
        name, caches = names.block_path(role, number), dict[str, Tensor]()
        if role == "decoder":
            pair = map(_with_room, (result.key, result.value))
            caches |= zip(names.present_names(number), pair, strict=True)
        if result.experts is None:
            yield Step(role, name, {**feeds, **stream}, {name: result.hidden, **caches})
        else:
            layer, attended = names.sparse_layer(role, number), names.attended(role, number)
            wanted, routed = {attended: result.attended, **caches}, (names.expert_choice(layer), result.experts.chosen)
            yield Step(role, name, {**feeds, **stream}, wanted, routed)
            fed = {names.INPUT_IDS: feeds[names.INPUT_IDS], attended: result.attended}
            for assigned, hidden in result.experts.outputs:
                yield Step(role, name, {**fed, names.expert_choice(layer): assigned}, {name: hidden}, layer=layer)
        stream = {name: result.hidden}
    return stream
