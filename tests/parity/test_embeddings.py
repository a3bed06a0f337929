"""Embeddings of encoder and decoder that differ, and heads apart from both: what transformers 5.23.0 makes of them."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from checkpoints import CHECKPOINTS, EMBEDDING_NAMES, reference, weights, write_tensors, write_tokenizer
from pointsman.model import SwitchModel
from pointsman_export.bundle import export_bundle
from tolerances import LOGITS

SHARED, ENCODER, DECODER, HEAD = EMBEDDING_NAMES
INPUTS = [[17, 5, 93, 60, 1], [44, 1], [8, 8, 101, 2, 39, 71, 12, 1]]
TARGETS = [[14, 25, 127, 60, 1], [99, 7, 31], [5, 5, 5, 84, 1]]


@dataclass(frozen=True)
class Case:
    """A checkpoint's embeddings and head, each of a letter's values, and what must be found.

    Attributes:
        stored: letters by name.
        tied: what config.json says of the head; None where it says nothing.
        separate: whether each stack must have an embedding of its own.
        head: the name of the head that must be found; None for the decoder's embedding.
        scaled: whether the input of another head must be scaled.
    """

    stored: dict[str, str]
    tied: bool | None
    separate: bool
    head: str | None
    scaled: bool = False


CASES = {
    # What transformers 5 saves of an untied model that was trained with all four apart.
    "four apart": Case({SHARED: "a", ENCODER: "b", DECODER: "c", HEAD: "d"}, False, True, HEAD),
    "four apart, said tied": Case({SHARED: "a", ENCODER: "b", DECODER: "c", HEAD: "d"}, True, True, HEAD, scaled=True),
    "three apart and no head": Case({SHARED: "a", ENCODER: "b", DECODER: "c"}, None, True, SHARED, scaled=True),
    "an encoder's own": Case({SHARED: "a", ENCODER: "b"}, None, True, None),
    "a decoder's own, the head of the encoder": Case({SHARED: "a", DECODER: "c"}, True, True, SHARED, scaled=True),
    "one for both, the head apart": Case({SHARED: "a", ENCODER: "a", DECODER: "a", HEAD: "d"}, False, False, HEAD),
    "one for both, the shared one unused": Case(
        {SHARED: "a", ENCODER: "b", DECODER: "b", HEAD: "d"}, False, False, HEAD
    ),
}


def write(folder: Path, case: Case) -> Path:
    spec = CHECKPOINTS["tied"]
    tensors = weights(spec)
    embedding = tensors.pop(SHARED)
    generator = torch.Generator().manual_seed(77)
    values = {letter: embedding + 0.7 * torch.randn(embedding.shape, generator=generator) for letter in "abcd"}
    values["d"] /= 4  # as untied heads are, whose input is not scaled
    write_tensors(folder, tensors | {name: values[letter] for name, letter in case.stored.items()}, spec.layout)
    config = spec.config | {"tie_word_embeddings": case.tied}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    write_tokenizer(folder)
    return folder


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_logits_are_those_of_transformers(exports, tmp_path, case):
    checkpoint = write(tmp_path / "checkpoint", case)
    manifest = export_bundle(checkpoint, tmp_path / "bundle", forms=["fused"])
    assert manifest.architecture == replace(
        CHECKPOINTS["tied"].architecture,
        separate_embeddings=case.separate,
        tied_head=case.head is None,
        scaled_head=case.scaled,
    )
    assert manifest.source.unused == ()
    scores = SwitchModel.load(tmp_path / "bundle", device="cpu", threads=1).score(INPUTS, TARGETS)
    network = reference(checkpoint)
    for ids, target, logprobs in zip(INPUTS, TARGETS, scores, strict=True):
        labels = torch.tensor([target])
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([ids]), labels=labels).logits
        expected = logits.log_softmax(-1).gather(2, labels[:, :, None])[0, :, 0]
        LOGITS.check(logprobs, expected.numpy(), str(ids))
