"""The tokenizer and chat template inside a GGUF file."""

from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers

from itrex_chat.chat.fast import FastTokenizer
from itrex_chat.foundation.errors import TokenizerError
from itrex_chat.foundation.harmless import unheard
from itrex_chat.foundation.language import _
from itrex_chat.settings.recipe import Chat
from itrex_chat.sources.gguf_header import read_header

NAMED_TOKENS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
# Ways of splitting text into words, by llama.cpp's names, that transformers' table lacks.
LLAMA3_LIKE = ("chatglm-bpe", "glm4")
GPT2_LIKE = ("default", "gpt-2")


def tokenizer_from_gguf(path: Path, chat: Chat) -> FastTokenizer:
    """The tokenizer that a GGUF file describes. Raises TokenizerError."""
    metadata, _tensors = read_header(path, ("tokenizer.ggml.tokens", "tokenizer.ggml.merges"))
    if not isinstance(template := metadata.get("tokenizer.chat_template"), str):
        raise TokenizerError(_("{path} has no chat template: it is not a chat model.", path=path))
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise TokenizerError(_("{path} has no tokenizer in it.", path=path))
    named = {
        name: tokens[number]
        for name, key in NAMED_TOKENS.items()
        if type(number := metadata.get(f"tokenizer.ggml.{key}")) is int and 0 <= number < len(tokens)
    }
    stop_ids = {
        number
        for key in ("eos_token_id", "eot_token_id", "eom_token_id")
        if type(number := metadata.get(f"tokenizer.ggml.{key}")) is int and number >= 0
    }
    return FastTokenizer(_converted(path, metadata).to_str().encode(), template, named, stop_ids, chat)


def _converted(path: Path, metadata: dict) -> Tokenizer:
    """The tokenizer, built by transformers from the vocabulary and merges in the file."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import (
        GGUF_PRE_TOKENIZER_SPLITS,
        GGUF_TOKENIZER_MAPPING,
        convert_gguf_tokenizer,
    )

    described = {
        name: metadata[f"tokenizer.{key}"]
        for key, name in GGUF_TOKENIZER_MAPPING["tokenizer"].items()
        if f"tokenizer.{key}" in metadata
    }
    kind, split = described.get("tokenizer_type"), str(described.get("pre_tokenizer_type", "default"))
    known = {*GGUF_PRE_TOKENIZER_SPLITS, *LLAMA3_LIKE, *GPT2_LIKE, "smollm"}
    if kind not in ("gpt2", "llama") or (kind == "gpt2" and split not in known):
        raise TokenizerError(
            _("{path}: the tokenizer {kind} ({split}) is not supported.", path=path, kind=kind, split=split)
        )
    if split in LLAMA3_LIKE:
        described["pre_tokenizer_type"] = "llama-bpe"
    try:
        with unheard("transformers"):
            tokenizer, _settings = convert_gguf_tokenizer(metadata["general.architecture"], described)
    except Exception as error:  # damaged vocabularies fail in many ways
        raise TokenizerError(
            _(
                "{path}: the tokenizer in it is damaged ({reason}).",
                path=path,
                reason=" ".join(str(error).split())[:160].rstrip("."),
            )
        ) from None
    if split == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return tokenizer
