"""Renders the conversations of chat_cases.py with transformers' apply_chat_template: what chats.json is made of."""

import datetime

from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

import chat_cases


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 11, 24, 9, 5, 7)


def in_parts(message):
    """The message with its text as a list of content parts."""
    return {**message, "content": [{"type": "text", "text": message.get("content", "")}]}


def render(tokenizer, templates, of_parts=()):
    """Every template (name -> source, bos, eos) with every conversation; a refusal is recorded as such. Templates named
    in `of_parts` read content as a list of parts, and fail or show nothing where it is a string."""
    chat_template_utils.datetime = FixedClock
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    rendered = []
    for name, (source, bos, eos) in templates.items():
        fast.bos_token, fast.eos_token = bos, eos
        cases = []
        for chat, (messages, options) in chat_cases.CHATS.items():
            case = {"chat": chat}
            try:
                arguments = dict(chat_template=source, **options)
                messages = [in_parts(m) for m in messages] if name in of_parts else messages
                case["text"] = fast.apply_chat_template(messages, tokenize=False, **arguments)
                case["ids"] = fast.apply_chat_template(messages, tokenize=True, return_dict=False, **arguments)
            except Exception as error:  # the template's own refusal, or jinja's
                case.pop("text", None)
                case["error"] = str(error)
            cases.append(case)
        rendered.append({"name": name, "source": source, "bos": bos, "eos": eos, "cases": cases})
    chats = [{"name": n, "messages": m, "options": o} for n, (m, o) in chat_cases.CHATS.items()]
    return {"chats": chats, "templates": rendered}
