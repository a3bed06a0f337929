"""What the reference makes of a sample, in steps that a written graph can be compared in."""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pointsman.bundle import Role, names, side_by_side
from pointsman_export.network.attention import Pair
from pointsman_export.verify.reference import BlockResult, Reference
from pointsman_export.verify.sample import CAPACITY, PAST, Sample

Values = Mapping[str, Tensor]


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
    rows = len(sample.decoder_ids)
    feeds: dict[str, Tensor] = {
        names.INPUT_IDS: sample.decoder_ids,
        names.ATTENTION_MASK: sample.attention_mask,
        names.LENGTHS: torch.full((rows,), PAST),
        **{name: torch.from_numpy(array) for name, array in side_by_side(len(sample.input_ids), rows).items()},
    }
    for number, (past_pair, cross_pair) in enumerate(zip(sample.past, cross, strict=True)):
        feeds |= zip(names.past_names(number), map(_with_room, past_pair), strict=True)
        feeds |= zip(names.cross_names(number), cross_pair, strict=True)
    results = reference.decode(sample.decoder_ids, sample.attention_mask, cross, sample.past)
    stream = yield from _blocks("decoder", results, feeds)
    logits = reference.logits(next(iter(stream.values())))
    yield Step("decoder", names.LOGITS, {**feeds, **stream}, {names.LOGITS: logits})


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
