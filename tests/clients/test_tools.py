"""Tools with the official client, on a model that was made to write calls by a template of the tests'."""
import json

import openai
import pytest

from conftest import SMOLLM2, Server

# Every answer begins within a call, so that a small model makes some.
TEMPLATE = """{%- if tools %}<|im_start|>system
Tools: {{ tools | tojson }}
Call one as <tool_call>
{"name": NAME, "arguments": OBJECT}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
EXAMPLE = [
    {"role": "user", "content": "What is the weather in Rome?"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}]},
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    {"role": "user", "content": "What is the weather in Oslo?"},
]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    template = tmp_path_factory.mktemp("template") / "tools.jinja"
    template.write_text(TEMPLATE)
    running = Server(SMOLLM2, "--chat-template", str(template), "--max-model-len", "2048", "--kv-cache-memory", "200MiB")
    yield openai.OpenAI(base_url=running.base_url, api_key="none", _strict_response_validation=True, max_retries=0)
    assert running.stop() == 0


def ask(client, **more):
    fixed = dict(model=client.models.list().data[0].id, messages=EXAMPLE, tools=[WEATHER], max_tokens=80)
    return client.chat.completions.create(**{**fixed, **more})


def test_calls_are_whole_or_not_reported(client):
    choices = ask(client, n=8, temperature=0.7, seed=3).choices
    called = [c for c in choices if c.finish_reason == "tool_calls"]
    assert called, [c.message.content for c in choices]
    for choice in called:
        for call in choice.message.tool_calls:
            assert call.id and call.function.name
            assert isinstance(json.loads(call.function.arguments), dict)
    # What the model broke off, or wrote otherwise, is not reported as called.
    for choice in choices:
        if choice.finish_reason == "stop" and choice.message.tool_calls:
            with pytest.raises(json.JSONDecodeError):
                json.loads(choice.message.tool_calls[-1].function.arguments)


def test_stream_equals_answer(client):
    for seed in range(6):
        whole = ask(client, temperature=0.9, seed=seed).choices[0]
        content, calls, reasons = "", [], []
        for chunk in ask(client, temperature=0.9, seed=seed, stream=True):
            for choice in chunk.choices:
                content += choice.delta.content or ""
                reasons += [choice.finish_reason] if choice.finish_reason else []
                for call in choice.delta.tool_calls or []:
                    if call.id:
                        assert call.index == len(calls)
                        calls.append([call.function.name, ""])
                    calls[call.index][1] += call.function.arguments
        expected = [[c.function.name, c.function.arguments] for c in whole.message.tool_calls or []]
        assert (content, calls, reasons) == (whole.message.content or "", expected, [whole.finish_reason])


def test_no_calls_where_none_are_wanted(client):
    choice = ask(client, temperature=0, tool_choice="none").choices[0]
    assert choice.message.tool_calls is None and choice.finish_reason in ("stop", "length")


def test_what_cannot_be_forced_is_refused(client):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, tool_choice="required")
    assert refused.value.param == "tool_choice"


def test_a_template_without_tools_refuses_them(server):
    plain = openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError) as refused:
        ask(plain)
    assert refused.value.param == "tools" and refused.value.code == "unsupported_parameter"
