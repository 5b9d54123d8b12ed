"""The small model's tokenizer: bytes in pairs, words split as Qwen2 splits them, which llama.cpp does alike."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from itrex_chat.foundation.files import write_json, write_text
from trained.texts import Texts

END, TURN, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL_TOKENS = (END, TURN, TURN_END)  # their ids are 0, 1, 2
PRE_TOKENIZER = "qwen2"  # llama.cpp's name of the pattern
NORMAL, CONTROL = 1, 3  # kinds of tokens in GGUF
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train(texts: Iterable[str], size: int) -> Tokenizer:
    """A vocabulary of `size` tokens, three of which are control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*CONTROL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def chat(question: str, answer: str) -> str:
    """What the template makes of one question and its answer."""
    return f"{TURN}user\n{question}{TURN_END}\n{TURN}assistant\n{answer}{TURN_END}\n"


def write(tokenizer: Tokenizer, folder: Path) -> None:
    """tokenizer.json and its configuration, as checkpoints have them."""
    write_text(folder / "tokenizer.json", json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, indent=1))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "pad_token": END,
    }
    write_json(folder / "tokenizer_config.json", settings)


def stream(tokenizer: Tokenizer, texts: Texts) -> list[int]:
    """The training's tokens: documents and groups of chats in turn, each with END behind it."""
    end = CONTROL_TOKENS.index(END)
    chats = [chat(*pair) for pair in texts.chats]
    share = -(-len(chats) // len(texts.training))
    ids: list[int] = []
    for number, text in enumerate(texts.training):
        ids += [*tokenizer.encode(text, add_special_tokens=False).ids, end]
        for said in chats[number * share : (number + 1) * share]:
            ids += [*tokenizer.encode(said, add_special_tokens=False).ids, end]
    return ids


def add_to_gguf(folder: Path, writer: Any) -> None:
    """What llama.cpp needs to know of the tokenizer in a folder, so that it finds the same tokens."""
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    ids = content["model"]["vocab"]
    tokens = sorted(ids, key=ids.__getitem__)
    control = {token["content"] for token in content["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token in control else NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
    writer.add_eos_token_id(ids[TURN_END])
    writer.add_pad_token_id(ids[END])
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
