"""OpenAI's completions as the official client speaks them."""

import openai
import pytest

TEXT = "The <extra_id_0> walks in <extra_id_1> park."
PREFIX, SUFFIX = "The old man walks in ", " park."


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def complete(client, **keywords):
    return client.completions.create(**{"model": "demo", "prompt": TEXT, "temperature": 0, **keywords})


def test_models(client):
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").owned_by == "pointsman"
    with pytest.raises(openai.NotFoundError, match="there is no model of this name; there are demo"):
        client.models.retrieve("other")


def test_blanks_in_the_prompt(client, library):
    answer = complete(client)
    (choice,) = answer.choices
    fill = library.infill(TEXT, max_new_tokens=18)[0]
    assert (choice.text, choice.finish_reason, choice.index) == (fill.text, "stop", 0)
    assert answer.usage.prompt_tokens == len(library.tokenizer.encode(TEXT))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.id.startswith("cmpl-")


def test_a_suffix(client, library):
    (choice,) = complete(client, prompt=PREFIX, suffix=SUFFIX).choices
    fill = library.infill(f"{PREFIX}<extra_id_0>{SUFFIX}", max_new_tokens=17)[0]
    assert choice.text == fill.spans[0].text
    assert complete(client, prompt=PREFIX, suffix="").choices[0].text


def test_max_tokens_counts_the_spans_tokens(client):
    answer = complete(client, prompt="Once upon a time", suffix="", max_tokens=1, logprobs=0)
    (choice,) = answer.choices
    assert len(choice.logprobs.tokens) == answer.usage.completion_tokens == 1
    assert choice.finish_reason == "length"
    whole = complete(client, logprobs=0)
    assert whole.usage.completion_tokens == len(whole.choices[0].logprobs.tokens)


def test_samples(client, library):
    fields = {"temperature": 0.9, "top_p": 0.8, "seed": 5}
    answer = complete(client, n=3, **fields)
    expected = library.infill(TEXT, do_sample=True, num_return_sequences=3, max_new_tokens=18, top_k=0, **fields)
    assert sorted(choice.text for choice in answer.choices) == sorted(fill.text for fill in expected)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.text for choice in complete(client, n=3, **fields).choices] == [one.text for one in answer.choices]


def test_several_prompts(client):
    prompts = [TEXT, "Once upon a <extra_id_0>."]
    answer = complete(client, prompt=prompts, n=2, temperature=1, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text.startswith("Once") for choice in answer.choices] == [False, False, True, True]


@pytest.mark.parametrize("asked", [{}, {"prompt": PREFIX, "suffix": SUFFIX}])
def test_logprobs_lie_where_the_tokens_are(client, asked):
    (choice,) = complete(client, logprobs=1, **asked).choices
    found = choice.logprobs
    assert len(found.tokens) == len(found.token_logprobs) == len(found.text_offset) >= 1
    pairs = zip(found.tokens, found.token_logprobs, strict=True)
    assert found.top_logprobs == [{token: logprob} for token, logprob in pairs]
    for token, offset in zip(found.tokens, found.text_offset, strict=True):
        assert choice.text[offset:].startswith(token) or choice.text[offset:].startswith(token.lstrip())


WORDY = {"prompt": "Once upon a time ", "suffix": "", "temperature": 2, "seed": 0, "max_tokens": 30}
STREAMED = {
    "greedy": {},
    "suffix": {"prompt": PREFIX, "suffix": SUFFIX},
    "samples": {"n": 3, "temperature": 1, "seed": 2},
    "prompts": {"prompt": [TEXT, "Once upon a <extra_id_0>."], "n": 2, "temperature": 1, "seed": 3},
    "stop": {**WORDY, "stop": ["e w", "in"]},
    "no stop": {**WORDY, "stop": ["none of it"]},
    "logprobs": {"logprobs": 0},
}


@pytest.mark.parametrize("kind", STREAMED)
def test_streams_add_up_to_the_answer(client, kind):
    whole = complete(client, **STREAMED[kind])
    texts = {choice.index: "" for choice in whole.choices}
    ends, logprobs = {}, {}
    for chunk in complete(client, stream=True, **STREAMED[kind]):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason:
                ends[choice.index], logprobs[choice.index] = choice.finish_reason, choice.logprobs
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}
    assert logprobs == {choice.index: choice.logprobs for choice in whole.choices}


def test_streams_come_in_pieces_and_may_end_with_the_usage(client):
    chunks = list(complete(client, stream=True, stream_options={"include_usage": True}))
    assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].text]) > 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage == complete(client).usage


def test_stop_cuts_the_text(client):
    whole = complete(client, **WORDY).choices[0].text
    stop = whole[12:16]
    cut = complete(client, stop=stop, logprobs=0, **WORDY).choices[0]
    assert (cut.text, cut.finish_reason) == (whole[: whole.index(stop)], "stop")
    assert all(offset < len(cut.text) for offset in cut.logprobs.text_offset)


@pytest.mark.parametrize(
    ("keywords", "param", "sentence"),
    [
        ({"prompt": "no blank"}, "prompt", "a prompt needs a blank, <extra_id_0>, or a suffix, which may be empty"),
        ({"suffix": "x"}, "suffix", "the text before a suffix is filled; leave out the blanks, or the suffix"),
        ({"echo": True}, "echo", "echo has no meaning for this model; leave it out"),
        ({"best_of": 2}, "best_of", "best_of has no meaning for this model; leave it out"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "frequency_penalty has no meaning for this model"),
        ({"presence_penalty": 0.5}, "presence_penalty", "presence_penalty has no meaning for this model"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "logit_bias has no meaning for this model"),
        ({"stop": "x"}, "stop", "stop has no meaning where blanks are filled; use a suffix"),
        ({"prompt": "a", "suffix": "", "stop": ["x"] * 5}, "stop", "stop has 5 sequences; use 4 at most"),
        ({"n": 2}, "n", "n above 1 needs a temperature above 0"),
        ({"top_p": 0.5}, "top_p", "top_p has no meaning at temperature 0"),
        ({"logprobs": 1, "temperature": 1}, "logprobs", "logprobs 1 needs temperature 0"),
        ({"logprobs": 5}, "logprobs", "logprobs is too large; use 1 at most"),
        ({"max_tokens": 1}, "max_tokens", "max_tokens 1 is too few for 2 blanks; use one for each"),
        ({"max_tokens": 10**6}, "max_tokens", "max_tokens 1000000 is too many; this model allows"),
        ({"temperature": 3}, "temperature", "temperature is too large; use 2 at most"),
        ({"prompt": [1, 2]}, "prompt.0", "prompt.0 must be text; prompt.1 must be text"),
        ({"extra_body": {"tools": []}}, "tools", "tools is no field; use prompt, model, suffix, max_tokens"),
    ],
)
def test_what_has_no_meaning_is_refused_by_name(client, keywords, param, sentence):
    with pytest.raises(openai.BadRequestError) as refused:
        complete(client, **keywords)
    assert sentence in refused.value.body["message"]
    assert refused.value.param == param


def test_a_model_that_is_not_there(client):
    with pytest.raises(openai.NotFoundError):
        complete(client, model="other")


def test_asking_asynchronously(served):
    import asyncio

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
            answers = [client.completions.create(model="demo", prompt=TEXT, temperature=0) for _ in range(8)]
            return {answer.choices[0].text for answer in await asyncio.gather(*answers)}

    assert len(asyncio.run(ask())) == 1
