"""Makes tests/fixtures/text: small tokenizers with the ids of their originals, and rendered chats.

    python3 -m venv ref && ref/bin/pip install -r tests/reference/requirements.txt sentencepiece==0.2.3
    ref/bin/python tests/reference/make_text_fixtures.py [--models DIR]

Pins: transformers 5.24.0, tokenizers 0.23.3, sentencepiece 0.2.3, gguf 0.19.0, jinja2 3.1.6.

    byte_level.json/.gguf    a byte-level BPE tokenizer, as tokenizer.json and as GGUF metadata
    sentencepiece.json/.gguf a SentencePiece BPE model with byte tokens, likewise
    tokens.json              ids of every text of text_cases.py: for byte_level under each pre-tokenizer,
                             for sentencepiece from the sentencepiece library itself
    chats.json               templates of our own in the style of each family, conversations, the text
                             and ids of transformers' apply_chat_template
    models.json              (with --models) ids by transformers of the two real models of the tests
"""

import argparse
import io
import json
import pathlib
import tempfile

import gguf
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer
from transformers.integrations.gguf import gguf_tokenizer_mapping as mapping
from transformers.tokenization_utils_base import generate_merges

import chat_cases
from chats import render
from text_cases import TEXTS, TRAINING

OUT = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "text"
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>",
    "<|end_header_id|>", "<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<bos>", "<eos>", "<start_of_turn>",
    "<end_of_turn>",
]
USER_DEFINED = ["<think>", "</think>", "two words"]
NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6


def byte_level():
    """A byte-level vocabulary whose merges cross words, so that a wrong pre-tokenizer shows."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=SPECIAL, show_progress=False, max_token_length=12,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    pieces = [line[i:] for line in TRAINING for i in range(0, len(line), 7)]
    tokenizer.train_from_iterator(pieces, trainer)
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in USER_DEFINED])
    return tokenizer


def byte_level_regex(pre):
    """The pre-tokenizer and normalizer of the models whose GGUF files name `pre`."""
    steps, normalizer = [], None
    if pre in mapping.GGUF_PRE_TOKENIZER_SPLITS:
        split = pre_tokenizers.Split(Regex(mapping.GGUF_PRE_TOKENIZER_SPLITS[pre]), behavior="isolated")
        steps = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    else:
        digits = [pre_tokenizers.Digits(individual_digits=True)] if pre in ("smollm", "command-r") else []
        steps = digits + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    if pre in ("qwen2", "qwen35", "command-r"):
        normalizer = normalizers.NFC()
    return pre_tokenizers.Sequence(steps), normalizer


def write_byte_level(tokenizer, tokens):
    state = json.loads(tokenizer.to_str())
    vocab = dict(state["model"]["vocab"]) | {a["content"]: a["id"] for a in state["added_tokens"]}
    names = sorted(vocab, key=vocab.get)
    types = [CONTROL if n in SPECIAL else USER if n in USER_DEFINED else NORMAL for n in names]
    writer = gguf.GGUFWriter(OUT / "byte_level.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(m) for m in state["model"]["merges"]])
    writer.add_bos_token_id(vocab["<|begin_of_text|>"])
    writer.add_eos_token_id(vocab["<|im_end|>"])
    writer.add_add_bos_token(False)
    finish(writer)
    (OUT / "byte_level.json").write_text(json.dumps(state, ensure_ascii=False, separators=(",", ":")))
    tokens["byte_level"] = {}
    for pre in ("gpt-2", "smollm", "command-r", "llama-bpe", "smaug-bpe", "qwen2", "qwen35", "tekken", "gpt-4o"):
        tokenizer.pre_tokenizer, normalizer = byte_level_regex(pre)
        if normalizer is not None:
            tokenizer.normalizer = normalizer
        variant = json.loads(tokenizer.to_str())
        variant["model"]["ignore_merges"] = pre in ("llama-bpe", "tekken")
        variant["normalizer"] = None if normalizer is None else {"type": "NFC"}
        made = Tokenizer.from_str(json.dumps(variant))
        tokens["byte_level"][pre] = [made.encode(t, add_special_tokens=False).ids for t in TEXTS]


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_sentencepiece(tokens):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line.rstrip("\n") for line in TRAINING * 3), model_writer=model, model_type="bpe",
        vocab_size=900, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        character_coverage=0.98, user_defined_symbols=["[INST]", "[/INST]"], minloglevel=2,
        max_sentencepiece_length=12,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    names = [processor.id_to_piece(i) for i in range(processor.vocab_size())]
    kind = lambda i: (UNKNOWN if processor.is_unknown(i) else CONTROL if processor.is_control(i)
                      else BYTE if processor.is_byte(i) else USER if names[i] in ("[INST]", "[/INST]") else NORMAL)
    types = [kind(i) for i in range(len(names))]
    writer = gguf.GGUFWriter(OUT / "sentencepiece.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(names)
    writer.add_token_types(types)
    writer.add_token_scores([processor.get_score(i) for i in range(len(names))])
    writer.add_bos_token_id(processor.bos_id())
    writer.add_eos_token_id(processor.eos_id())
    writer.add_unk_token_id(processor.unk_id())
    finish(writer)
    tokens["sentencepiece"] = [processor.encode(t) for t in TEXTS]

    # The same as tokenizer.json, in the shape that Llama 2's has.
    vocab = {name: i for i, name in enumerate(names)}
    scores = {name: processor.get_score(i) for i, name in enumerate(names) if types[i] == NORMAL}
    merges = [m for m in generate_merges(vocab, scores)]
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ("<unk>", "<s>", "</s>")])
    made.add_tokens([AddedToken(t, normalized=False) for t in ("[INST]", "[/INST]")])
    (OUT / "sentencepiece.json").write_text(
        json.dumps(json.loads(made.to_str()), ensure_ascii=False, separators=(",", ":")))
    tokens["sentencepiece_json"] = [made.encode(t, add_special_tokens=False).ids for t in TEXTS]
    tokens["sentencepiece_decoded"] = [made.decode(ids) for ids in tokens["sentencepiece_json"]]


def write_chats(tokenizer):
    chats = render(tokenizer, chat_cases.TEMPLATES)
    (OUT / "chats.json").write_text(json.dumps(chats, ensure_ascii=False, indent=1))


def write_models(folder):
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*.gguf")):
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        backend = tokenizer.backend_tokenizer
        if "SmolLM2" in path.name:
            # A GGUF file doesn't hold this; the model's own tokenizer.json splits digits.
            backend.pre_tokenizer, _ = byte_level_regex("smollm")
        found[path.name] = [backend.encode(t, add_special_tokens=False).ids for t in TEXTS]
    (OUT / "models.json").write_text(json.dumps(found, separators=(",", ":")))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", help="folder with the GGUF files of the real models")
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    tokens = {"texts": TEXTS}
    tokenizer = byte_level()
    plain = Tokenizer.from_str(tokenizer.to_str())
    write_byte_level(tokenizer, tokens)
    write_sentencepiece(tokens)
    (OUT / "tokens.json").write_text(json.dumps(tokens, separators=(",", ":")))
    write_chats(plain)
    if arguments.models:
        write_models(arguments.models)


if __name__ == "__main__":
    main()
