"""Tiny random Switch models, and the same search done by transformers and by this project.

Both sides see the same torch network; only the search differs. Ours drives a state that keeps every row's
prefix and runs the decoder over the whole of it, so that a wrong cache reordering on either side would show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

from pointsman.decoding import DecodingOptions, Generation, SpecialTokens, decode

VOCABULARY = 96
SENTINELS = range(VOCABULARY - 1, VOCABULARY - 11, -1)
CLOSING = SENTINELS[2]
"""What ends the output for an input with the first two sentinels."""
TOKENS = SpecialTokens(pad_id=0, eos_ids=(1,), decoder_start_id=0)
SCORE_TOLERANCE = 1e-4
"""Float32 sums of the same log-probabilities, computed by two libraries in different orders."""


def tiny_model(*, seed: int, eos_bias: float, sentinel_bias: float = 0.0) -> SwitchTransformersForConditionalGeneration:
    """A seeded two-layer model; the biases are added to the logits of eos and of the sentinels."""
    torch.manual_seed(seed)
    config = SwitchTransformersConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        d_ff=48,
        d_kv=8,
        num_heads=4,
        num_layers=2,
        num_decoder_layers=2,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
        num_experts=4,
        expert_capacity=1024,  # no token is ever dropped, so a recomputed prefix equals a cached one
        tie_word_embeddings=False,
        pad_token_id=TOKENS.pad_id,
        eos_token_id=TOKENS.eos_ids[0],
        decoder_start_token_id=TOKENS.decoder_start_id,
    )
    model = SwitchTransformersForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(1.5)
        model.lm_head.weight.normal_(std=3 / config.d_model**0.5)
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(VOCABULARY))
        model.lm_head.bias[TOKENS.eos_ids[0]] = eos_bias
        model.lm_head.bias[list(SENTINELS)] = sentinel_bias
    return model


@dataclass(frozen=True)
class Inputs:
    """A right-padded batch."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor

    @classmethod
    def random(cls, lengths: Sequence[int], seed: int) -> "Inputs":
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(2, VOCABULARY, (len(lengths), max(lengths)), generator=generator)
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
        return cls(ids * mask, mask)

    def __len__(self) -> int:
        return len(self.input_ids)


class TorchState:
    """The state of a torch model."""

    def __init__(self, model: SwitchTransformersForConditionalGeneration, inputs: Inputs, rows_per_input: int) -> None:
        with torch.no_grad():
            hidden = model.encoder(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask)[0]
        self._model = model
        self._hidden = hidden.repeat_interleave(rows_per_input, dim=0)
        self._mask = inputs.attention_mask.repeat_interleave(rows_per_input, dim=0)
        self._prefixes = torch.zeros(len(self._hidden), 0, dtype=torch.long)
        self.steps = 0

    def step(self, token_ids: NDArray[np.int64], beam_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        fed = torch.from_numpy(token_ids)
        self._prefixes = torch.cat([self._prefixes[torch.from_numpy(beam_rows)], fed], dim=1)
        self.steps += 1
        with torch.no_grad():
            hidden = self._model.decoder(
                input_ids=self._prefixes,
                encoder_hidden_states=self._hidden,
                encoder_attention_mask=self._mask,
                use_cache=False,
            )[0]
            logits: NDArray[np.float32] = self._model.lm_head(hidden[:, -fed.shape[1] :]).numpy()
        return logits


def ours(
    model: SwitchTransformersForConditionalGeneration,
    inputs: Inputs,
    options: DecodingOptions,
    *,
    tokens: SpecialTokens = TOKENS,
    **extra: Any,
) -> list[list[Generation]]:
    """Our search, over the torch model."""
    rows_per_input = max(options.num_beams, options.num_return_sequences)
    return decode(TorchState(model, inputs, rows_per_input), len(inputs), options, tokens, **extra)


@dataclass(frozen=True)
class Reference:
    """What transformers generated, for each input in order of return."""

    token_ids: list[list[tuple[int, ...]]]
    scores: list[list[float]] | None  # beam search only
    output: Any


def theirs(
    model: SwitchTransformersForConditionalGeneration,
    inputs: Inputs,
    options: DecodingOptions,
    *,
    ends: Sequence[int] = TOKENS.eos_ids,
    settings: Mapping[str, Any] = MappingProxyType({}),
    **extra: Any,
) -> Reference:
    """`generate` of transformers with the same options."""
    config = GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        min_new_tokens=options.min_new_tokens,
        num_beams=options.num_beams,
        num_return_sequences=options.num_return_sequences,
        do_sample=False,
        repetition_penalty=float(options.repetition_penalty),
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        return_dict_in_generate=True,
        output_scores=True,
        **_beam_options(options),
        **{
            "pad_token_id": TOKENS.pad_id,
            "eos_token_id": list(ends),
            "decoder_start_token_id": TOKENS.decoder_start_id,
            **settings,
        },
    )
    with torch.no_grad():
        output = model.generate(
            input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, generation_config=config, **extra
        )
    sequences = [_trimmed(row, ends) for row in output.sequences[:, 1:].tolist()]
    scores = output.sequences_scores.tolist() if options.num_beams > 1 else None
    count = options.num_return_sequences
    return Reference(
        token_ids=_grouped(sequences, count), scores=None if scores is None else _grouped(scores, count), output=output
    )


def _beam_options(options: DecodingOptions) -> dict[str, Any]:
    if options.num_beams == 1:
        return {}
    return {"length_penalty": float(options.length_penalty), "early_stopping": options.early_stopping}


def _trimmed(ids: list[int], ends: Sequence[int]) -> tuple[int, ...]:
    """Up to the first end token, as what follows is padding."""
    length = next((index + 1 for index, token in enumerate(ids) if token in ends), len(ids))
    return tuple(ids[:length])


def _grouped(items: list[Any], count: int) -> list[list[Any]]:
    return [items[start : start + count] for start in range(0, len(items), count)]


def is_same_search(generations: list[list[Generation]], reference: Reference) -> bool:
    """Compare beam searches.

    Scores must agree at every rank. Returns whether the tokens do too: with equal scores and other tokens, two
    hypotheses were nearer to each other than the arithmetic is exact, which callers count and allow rarely.
    """
    assert reference.scores is not None
    for of_input, scores in zip(generations, reference.scores, strict=True):
        np.testing.assert_allclose([g.score for g in of_input], scores, rtol=1e-6, atol=SCORE_TOLERANCE)
    return [[g.token_ids for g in of_input] for of_input in generations] == reference.token_ids
