"""The official client with strict response validation: shapes, streams, errors."""
import concurrent.futures

import openai
import pytest

QUESTION = [{"role": "user", "content": "Name three colours."}]


def model_of(client):
    return client.models.list().data[0].id


def test_models(client):
    models = client.models.list().data
    assert len(models) == 1 and models[0].object == "model"
    assert client.models.retrieve(models[0].id).id == models[0].id
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("no-such-model")
    assert error.value.code == "model_not_found"


def test_chat(client):
    answer = client.chat.completions.create(model=model_of(client), messages=QUESTION, max_tokens=24, temperature=0)
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content.strip()
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens <= 24
    assert answer.usage.prompt_tokens_details.cached_tokens is not None


def test_stream_equals_answer(client):
    fixed = dict(model=model_of(client), messages=QUESTION, max_tokens=40, temperature=0.8, seed=11, logprobs=True, top_logprobs=2)
    whole = client.chat.completions.create(**fixed)
    chunks = list(client.chat.completions.create(**fixed, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(c.usage is None for c in chunks[:-1])
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    finishes = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert finishes == [whole.choices[0].finish_reason]
    streamed = [e for c in chunks if c.choices and c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    entries = whole.choices[0].logprobs.content
    assert [(e.token, e.logprob, e.bytes) for e in streamed] == [(e.token, e.logprob, e.bytes) for e in entries]
    assert all(len(e.top_logprobs) == 2 and e.logprob <= 0 for e in entries)


def test_same_seed_same_text_whatever_else_runs(client):
    fixed = dict(model=model_of(client), messages=QUESTION, max_tokens=32, temperature=1.0)
    alone = client.chat.completions.create(**fixed, seed=5).choices[0].message.content
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(client.chat.completions.create, **fixed, seed=s) for s in (5, 1, 2, 5, 3, 4, 5, 6)]
        texts = [j.result().choices[0].message.content for j in jobs]
    assert texts[0] == texts[3] == texts[6] == alone
    assert len(set(texts)) > 3, "other seeds give other texts"


def test_scores_do_not_depend_on_cache_or_neighbours(client):
    """The same request computed whole, from the prefix cache and beside others of every length: the same bits."""
    story = " ".join(f"On day {i} the ship passed island number {i * 7 % 31}." for i in range(30))
    messages = [{"role": "user", "content": story + " Which island came last?"}]
    fixed = dict(model=model_of(client), messages=messages, max_tokens=24, temperature=0.7, seed=9, logprobs=True, top_logprobs=5)

    def ask(salt):
        answer = client.chat.completions.create(**fixed, extra_body={"cache_salt": salt})
        scores = [(e.token, e.logprob, [(t.token, t.logprob) for t in e.top_logprobs]) for e in answer.choices[0].logprobs.content]
        return answer.usage.prompt_tokens_details.cached_tokens, scores

    cached, first = ask("a")
    assert cached == 0 and len(first) > 4
    cached, again = ask("a")
    assert cached > 256 and again == first, "from the cache"

    def noise(i):
        prompt = "word " * (1 + 97 * i % 800)
        return client.completions.create(model=fixed["model"], prompt=prompt, max_tokens=20 + i, temperature=1, seed=i)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        others = [pool.submit(noise, i) for i in range(12)]
        beside = [pool.submit(ask, salt) for salt in ("b", "c", "a")]
        assert [job.result()[1] for job in beside] == [first] * 3, "beside others"
        assert [job.result().choices[0].finish_reason for job in others]


def test_n_choices(client):
    answer = client.chat.completions.create(model=model_of(client), messages=QUESTION, max_tokens=12, n=3, seed=3)
    assert sorted(c.index for c in answer.choices) == [0, 1, 2]
    assert len({c.message.content for c in answer.choices}) > 1


def test_completions(client):
    model = model_of(client)
    fixed = dict(model=model, max_tokens=8, temperature=0)
    text = client.completions.create(prompt="The capital of France is", **fixed)
    assert "Paris" in text.choices[0].text
    batch = client.completions.create(prompt=["The capital of France is", "One, two,"], **fixed)
    assert [c.index for c in batch.choices] == [0, 1]
    assert batch.choices[0].text == text.choices[0].text
    ids = client.post("/../tokenize", body={"model": model, "prompt": "The capital of France is"}, cast_to=object)["tokens"]
    assert client.completions.create(prompt=ids, **fixed).choices[0].text == text.choices[0].text


def test_echo_scores_the_prompt(lenient):
    prompt = "The capital of France is Paris"
    answer = lenient.completions.create(
        model=model_of(lenient), prompt=prompt, max_tokens=1, temperature=0, echo=True, logprobs=1
    ).choices[0]
    assert answer.text.startswith(prompt)
    scores = answer.logprobs
    assert scores.token_logprobs[0] is None and all(x <= 0 for x in scores.token_logprobs[1:])
    assert len(scores.tokens) == len(scores.token_logprobs) == len(scores.text_offset)
    assert "".join(scores.tokens) == answer.text


def test_stop_strings(client, lenient):
    fixed = dict(model=model_of(client), prompt="Count: one, two, three, four,", max_tokens=40, temperature=0)
    full = client.completions.create(**fixed).choices[0].text
    stop = full[8:11]
    cut = client.completions.create(**fixed, stop=[stop])
    assert cut.choices[0].text == full[: full.index(stop)] and cut.choices[0].finish_reason == "stop"
    streamed = "".join(c.choices[0].text for c in lenient.completions.create(**fixed, stop=stop, stream=True))
    assert streamed == cut.choices[0].text


@pytest.mark.parametrize(
    "change, param",
    [
        ({"temperature": 3}, "temperature"),
        ({"n": 0}, "n"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]}, "messages[0].content[0]"),
    ],
)
def test_bad_fields_are_named(client, change, param):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**{"model": model_of(client), "messages": QUESTION, **change})
    assert error.value.param == param
    assert error.value.type == "invalid_request_error"


def test_too_long_is_refused_with_both_counts(client):
    model, prompt = model_of(client), "word " * 2500
    count = client.post("/../tokenize", body={"model": model, "prompt": prompt}, cast_to=object)["count"]
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model=model, prompt=prompt, max_tokens=4)
    assert error.value.code == "context_length_exceeded"
    assert "maximum context length is 2048 tokens" in str(error.value)
    assert f"you requested {count + 4} tokens ({count} in the prompt, 4 in the completion)" in str(error.value)


def test_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="gpt-4", messages=QUESTION)
    assert error.value.code == "model_not_found"
