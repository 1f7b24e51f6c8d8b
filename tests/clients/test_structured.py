"""Structured output on a real model: whatever the model would say, the text is what was asked for."""
import concurrent.futures
import json
import re
from typing import Literal

import httpx
import jsonschema
import openai
import pydantic
import pytest

QUESTION = [{"role": "user", "content": "Invent a person and describe them."}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2, "maxLength": 12},
        "age": {"type": "integer", "minimum": 1, "maximum": 99},
        "kind": {"enum": ["child", "adult", None]},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,6}$"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "kind", "tags"],
    "additionalProperties": False,
}


def model_of(client):
    return client.models.list().data[0].id


def schema_format(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


def ask(client, **more):
    fixed = dict(model=model_of(client), messages=QUESTION, max_tokens=200)
    return client.chat.completions.create(**{**fixed, **more})


@pytest.mark.parametrize("seed", range(12))
def test_schema(client, seed):
    choice = ask(client, seed=seed, temperature=1.3, response_format=schema_format(PERSON, strict=True)).choices[0]
    assert choice.finish_reason == "stop"
    jsonschema.validate(json.loads(choice.message.content), PERSON)


def test_parsed_by_the_client(client):
    class Colour(pydantic.BaseModel):
        name: Literal["red", "green", "blue"]
        strength: int

    class Palette(pydantic.BaseModel):
        main: Colour
        others: list[Colour] = pydantic.Field(max_length=2)

    parse = client.chat.completions.parse
    answer = parse(model=model_of(client), messages=QUESTION, max_tokens=300, temperature=0.7, seed=3, response_format=Palette)
    assert isinstance(answer.choices[0].message.parsed, Palette)


def test_json_object(client):
    for seed in range(4):
        answer = ask(client, seed=seed, max_tokens=300, response_format={"type": "json_object"})
        if answer.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_stream_equals_answer(client):
    fixed = dict(seed=5, temperature=1.0, response_format=schema_format(PERSON))
    whole = ask(client, **fixed).choices[0]
    chunks = list(ask(client, **fixed, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.message.content
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason == "stop"


def test_every_choice_and_prompt_is_constrained(client):
    answer = ask(client, n=5, seed=1, temperature=1.2, response_format=schema_format(PERSON))
    texts = [c.message.content for c in answer.choices]
    for text in texts:
        jsonschema.validate(json.loads(text), PERSON)
    assert len(set(texts)) > 1
    several = client.completions.create(
        model=model_of(client), prompt=["one", "two"], max_tokens=20, extra_body={"guided_choice": ["yes", "no"]})
    assert {c.text for c in several.choices} <= {"yes", "no"}
    assert {c.finish_reason for c in several.choices} == {"stop"}


@pytest.mark.parametrize(
    "body, pattern",
    [
        ({"structured_outputs": {"choice": ["positive", "negative"]}}, "positive|negative"),
        ({"structured_outputs": {"regex": r"\d{3}-\d{4}"}}, r"\d{3}-\d{4}"),
        ({"guided_regex": "[A-C]{5}"}, "[A-C]{5}"),
        ({"regex": "(ab|cd){3}"}, "(ab|cd){3}"),
        ({"guided_grammar": 'root ::= "x" [0-9] ("," [0-9]){2}'}, "x[0-9](,[0-9]){2}"),
        ({"structured_outputs": {"grammar": 'start: WORD " " WORD\nWORD: /[a-z]{2,5}/'}}, "[a-z]{2,5} [a-z]{2,5}"),
        ({"guided_json": json.dumps({"type": "integer", "minimum": 10, "maximum": 19})}, "1[0-9]"),
        ({"response_format": {"type": "json_object", "schema": {"const": [1, 2]}}}, r"\[\s*1\s*,\s*2\s*\]"),
    ],
)
def test_every_way_to_say_it(client, body, pattern):
    for seed in range(3):
        choice = ask(client, seed=seed, temperature=1.5, extra_body=body).choices[0]
        assert choice.finish_reason == "stop" and re.fullmatch(pattern, choice.message.content), choice


def test_a_cut_answer_is_length(client):
    choice = ask(client, max_tokens=5, response_format=schema_format(PERSON)).choices[0]
    assert choice.finish_reason == "length"


@pytest.mark.parametrize(
    "body, param, code, word",
    [
        ({"response_format": schema_format({"type": "object", "properties": {"a": {"type": "nothing"}}})},
         "response_format.json_schema.schema", "invalid_json_schema", "#/properties/a"),
        ({"response_format": schema_format({"$ref": "https://example.com/schema"})},
         "response_format.json_schema.schema", "invalid_json_schema", "$ref"),
        ({"guided_regex": "(unclosed"}, "guided_regex", "invalid_grammar", ""),
        ({"guided_grammar": 'root ::= "a"\nroot2 ::= missing'}, "guided_grammar", "invalid_grammar", "missing"),
        ({"guided_choice": ["a"], "guided_regex": "a"}, "guided_choice", "invalid_value", "guided_regex"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type", "unsupported_parameter", "structural_tag"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter", ""),
        ({"structured_outputs": {"regex": "a", "disable_any_whitespace": True}},
         "structured_outputs.disable_any_whitespace", "unsupported_parameter", ""),
    ],
)
def test_what_cannot_be_enforced_is_refused(client, body, param, code, word):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, extra_body=body)
    error = refused.value
    assert (error.param, error.code) == (param, code), error.message
    assert word in error.message


def test_costly_grammars_harm_nobody(client, server):
    deep = {}
    for _ in range(200):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
    wide = {"type": "object", "properties": {f"p{i}": {"type": "string", "pattern": "(a|b|ab)*c{1,50}"} for i in range(3000)}}
    costly = [
        {"response_format": schema_format(deep)},
        {"response_format": schema_format(wide)},
        {"guided_regex": "(a?){400}a{400}"},
        {"guided_regex": "(((a{1,100}){1,100}){1,100}){1,100}"},
        {"guided_grammar": "\n".join(f'r{i} ::= r{i + 1} r{i + 1} | r{i + 1}' for i in range(40)) + '\nr40 ::= "a"'},
    ]
    fixed = dict(seed=9, temperature=1.0, max_tokens=40)
    alone = ask(client, **fixed).choices[0].message.content
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        bad = [pool.submit(_status, server, body) for body in costly]
        good = [pool.submit(ask, client, **fixed) for _ in range(4)]
        assert {g.result().choices[0].message.content for g in good} == {alone}
        assert {b.result() for b in bad} <= {200, 400}
    assert httpx.get(server.url + "/health", timeout=5).status_code == 200


def _status(server, body):
    request = {"messages": QUESTION, "max_tokens": 30, **body}
    return httpx.post(server.base_url + "/chat/completions", json=request, timeout=60).status_code


def test_constrained_beside_free(client, server):
    fixed = dict(seed=4, temperature=1.0, max_tokens=60)
    alone = ask(client, **fixed).choices[0].message.content
    count = server.metric("sconce_grammar_compile_seconds_count")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        held = [pool.submit(ask, client, seed=s, response_format=schema_format(PERSON)) for s in range(12)]
        free = [pool.submit(ask, client, **fixed) for _ in range(4)]
        assert {f.result().choices[0].message.content for f in free} == {alone}
        for job in held:
            jsonschema.validate(json.loads(job.result().choices[0].message.content), PERSON)
    assert server.metric("sconce_grammar_compile_seconds_count") == count + 12
