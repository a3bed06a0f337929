"""The test checkpoints are what other tests take them for: models that transformers loads, and that are not dull."""

from dataclasses import replace

import pytest
import torch

from checkpoints import CHECKPOINTS, expressible, generates, reference, weights, write_checkpoint
from pointsman.text.tokenizer import Tokenizer

TOKENS = 16
# [texts, tokens]; each ends in </s>.
IDS = torch.randint(2, 128, (8, 12), generator=torch.Generator().manual_seed(5)).index_fill(1, torch.tensor([11]), 1)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", [name for name, spec in CHECKPOINTS.items() if expressible(spec)])
def test_transformers_loads_what_was_written_and_greedy_decoding_wanders(tmp_path, name):
    spec = CHECKPOINTS[name]
    model = reference(write_checkpoint(tmp_path, spec))
    state = model.state_dict()
    for tensor_name, tensor in weights(spec).items():
        assert torch.equal(state[tensor_name], tensor.float()), tensor_name
    if generates(spec):
        chosen = model.generate(IDS, max_new_tokens=TOKENS, do_sample=False)[:, 1:].tolist()
        assert len({tuple(row) for row in chosen}) >= 6
        assert len({token for row in chosen for token in row}) >= 20
        assert 1 <= sum(1 in row for row in chosen) <= 5


def test_small_capacity_drops_tokens(tmp_path):
    spec = CHECKPOINTS["capacity-2"]
    tight = reference(write_checkpoint(tmp_path / "tight", spec))
    wide = reference(write_checkpoint(tmp_path / "wide", replace(spec, expert_capacity=64)))
    with torch.no_grad():
        logits = [model(input_ids=IDS, decoder_input_ids=IDS).logits for model in (tight, wide)]
    assert (logits[0] - logits[1]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["tied", "all-sparse", "5-experts", "16-experts"])
def test_every_expert_is_used(tmp_path, name):
    model = reference(write_checkpoint(tmp_path, CHECKPOINTS[name]))
    ids = torch.randint(2, 128, (32, 32), generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        routers = model(input_ids=ids, decoder_input_ids=ids, output_router_logits=True).encoder_router_logits
    used = [set(logits.argmax(dim=-1).flatten().tolist()) for logits in routers]
    assert used == [set(range(CHECKPOINTS[name].num_experts))] * len(used)


def test_the_vocabulary_fits_the_embedding(tmp_path):
    text = "The <extra_id_3> waits."
    tokenizer = Tokenizer.load(write_checkpoint(tmp_path, CHECKPOINTS["tied"], tokenizer=True))
    tokenizer.check_vocab_size(CHECKPOINTS["tied"].vocab_size)
    assert tokenizer.sentinel_id(3) in tokenizer.encode(text)
    assert max(tokenizer.encode(text)) < CHECKPOINTS["tied"].vocab_size
