"""Makes tests/fixtures/tokenizer/MODEL.json from the two real models of the test suite.

    ref/bin/python tests/reference/make_tokenizer.py FOLDER_WITH_THE_GGUF_FILES

Pins (requirements.txt): transformers 5.24.0, gguf 0.19.0. transformers rebuilds each tokenizer from the file's metadata.

    texts: [{text, ids}]                                    without BOS; special-token look-alikes are parsed as such
    chats: [{messages, add_generation_prompt, text, ids}]   the file's own template; none if it has no template
"""

import json
import pathlib
import sys

import gguf
from transformers import AutoTokenizer

import reference  # noqa: F401  (offline settings)
from make_teacher_forced import MODELS
from texts import CHATS, TEXTS

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures"


def main():
    folder = pathlib.Path(sys.argv[1])
    (FIXTURES / "tokenizer").mkdir(parents=True, exist_ok=True)
    for name, file in MODELS.items():
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        field = gguf.GGUFReader(folder / file).fields.get("tokenizer.chat_template")
        texts = [{"text": t, "ids": tokenizer(t, add_special_tokens=False).input_ids} for t in TEXTS]
        chats = []
        for messages in CHATS if field else []:
            for generate in (False, True):
                text = tokenizer.apply_chat_template(messages, chat_template=field.contents(), tokenize=False, add_generation_prompt=generate)
                ids = tokenizer(text, add_special_tokens=False).input_ids
                chats.append({"messages": messages, "add_generation_prompt": generate, "text": text, "ids": ids})
        lines = {key: ",\n".join(json.dumps(v, ensure_ascii=True) for v in values) for key, values in (("texts", texts), ("chats", chats))}
        body = f'{{"texts": [\n{lines["texts"]}\n], "chats": [\n{lines["chats"]}\n]}}\n'
        json.loads(body)
        (FIXTURES / "tokenizer" / f"{name}.json").write_text(body)


if __name__ == "__main__":
    main()
