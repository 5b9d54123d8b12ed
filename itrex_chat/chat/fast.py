"""All other families: a `tokenizer.json` and the chat template that comes with the model.

Templates write messages and control tokens into one text. So that a message
cannot contain a control token, one that looks like it does is masked before
the template sees it, the template's own control tokens are renamed to
unguessable names, and the text is encoded by a copy of the tokenizer that
knows only these names.
"""

import functools
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from itrex_chat.chat.messages import Message
from itrex_chat.chat.templates import changed, compiled, described, replaced, texts, variables
from itrex_chat.chat.tools import MARKS
from itrex_chat.chat.vocabulary import bytes_of_letters, marked_bytes, read_file
from itrex_chat.foundation import files
from itrex_chat.foundation.errors import TokenizerError
from itrex_chat.foundation.harmless import encodable, unheard
from itrex_chat.foundation.language import _
from itrex_chat.settings.recipe import Chat

TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|user|>", "<|observation|>")
TEXT_ENDS = ("<|endoftext|>", "<|end_of_text|>")
XML_CALL = "<function="  # of models that write arguments as XML
BARE_CALL = '{"name": function name, "parameters":'  # what templates of Llama 3 tell to write
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


class FastTokenizer:
    """A tokenizer of the tokenizers library (`content`, its JSON) with a Jinja chat template.

    `named` holds bos_token, eos_token, … for the template; `stop_ids` are
    those that the model's configuration names.
    """

    strips_newline = False

    def __init__(self, content: bytes, template: str, named: dict[str, str], stop_ids: set[int], chat: Chat):
        self._content, self._template, self._named, self._chat = content, template, named, chat
        try:
            self._tokenizer = Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises plain Exception
            reason = " ".join(str(error).split())[:160].rstrip(".")
            raise TokenizerError(_("tokenizer.json is damaged ({reason}).", reason=reason)) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._added = {token.content: token for token in self._tokenizer.get_added_tokens_decoder().values()}
        self.stop_ids = frozenset(stop_ids | self._turn_ends())
        self.call_format = self._format_of_calls()

    def encode(self, text: str) -> list[int]:
        tokenizer = self._literal if any(name in text for name in self._added) else self._tokenizer
        return tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def token_bytes(self, ids: list[int]) -> list[bytes]:
        return [self._bytes_of(token) for token in ids]

    def control_ids(self) -> list[int]:
        found = self._tokenizer.get_added_tokens_decoder()
        return [number for number, token in found.items() if token.special]

    def prompt(self, messages: list[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        if self._chat.system and messages[0].role != "system":
            messages = [Message("system", self._chat.system), *messages]
        if not any(name in text for text in texts([list(map(described, messages)), tools]) for name in self._added):
            rendered = self._rendered(list(map(described, messages)), tools)
            return self._tokenizer.encode(rendered, add_special_tokens=False).ids
        masks = {name: f"\ue000{secrets.token_hex(8)}\ue001" for name in sorted(self._added, key=len, reverse=True)}
        # In earlier answers of the model itself only control tokens are masked, so that a template still sees the marks of its
        # reasoning (<think>).
        control = {name: mask for name, mask in masks.items() if self._added[name].special}
        text = self._rendered(
            [
                changed(described(message), lambda text: replaced(text, masks))
                | ({"content": replaced(message.content, control)} if message.role == "assistant" else {})
                for message in messages
            ],
            [changed(tool, lambda text: replaced(text, masks)) for tool in tools],
        )
        for name in masks:
            text = text.replace(name, self._secret_names[name])
        for name, mask in masks.items():
            text = text.replace(mask, name)
        return self._literal.encode(text, add_special_tokens=False).ids

    def files(self) -> dict[str, bytes]:
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": self._template,
            "clean_up_tokenization_spaces": False,
            **self._named,
        }
        return {
            "tokenizer.json": self._content,
            "tokenizer_config.json": json.dumps(settings, ensure_ascii=False, indent=2).encode(),
        }

    def _bytes_of(self, token: int) -> bytes:
        piece = self._tokenizer.id_to_token(token) if 0 <= token < 1 << 31 else None
        if piece is None:
            return b""
        if piece in self._added:
            return encodable(piece).encode()
        letters = self._letters
        if not letters:
            return marked_bytes(piece)
        return b"".join(bytes([letters[letter]]) if letter in letters else letter.encode() for letter in piece)

    @functools.cached_property
    def _letters(self) -> dict[str, int]:
        """The letters that stand for bytes in this vocabulary; none where it does not write bytes so."""
        decoder = json.dumps(json.loads(self._content).get("decoder"))
        return bytes_of_letters() if '"ByteLevel"' in decoder else {}

    def _rendered(self, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> str:
        try:
            text = compiled(self._template).render(
                messages=messages,
                add_generation_prompt=True,
                enable_thinking=self._chat.thinking,
                tools=list(tools) or None,
                documents=None,
                **self._named,
            )
            return encodable(text)
        except MemoryError:
            raise
        except Exception as error:  # whatever the template raises
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise TokenizerError(
                _("The model's chat template cannot take this conversation: {reason}.", reason=reason)
            ) from None

    def _turn_ends(self) -> set[int]:
        """Control tokens that end a turn or text, should the configuration have forgotten one."""
        ids = {
            self._tokenizer.token_to_id(name)
            for name in (*TURN_ENDS, *TEXT_ENDS)
            if name in self._added and self._added[name].special and (name in TEXT_ENDS or name in self._template)
        }
        if eos := self._named.get("eos_token"):
            ids.add(self._tokenizer.token_to_id(eos))
        return {token for token in ids if token is not None}

    def _format_of_calls(self) -> str:
        """How the template has the model call functions, as far as it is known here; marks that are control tokens are not
        part of an answer's text."""
        marks = [self._added[name] for name in MARKS if name in self._added]
        known = (
            MARKS[0] in self._template and XML_CALL not in self._template and not any(mark.special for mark in marks)
        )
        found = "tagged" if known else "bare" if BARE_CALL in self._template and MARKS[0] not in self._template else ""
        return (
            found if found and "tools" in variables(self._template) else ""
        )  # the template is parsed where it may pay

    @functools.cached_property
    def _secret_names(self) -> dict[str, str]:
        return {name: f"\ue000{secrets.token_hex(8)}\ue001" for name in self._added}

    @functools.cached_property
    def _literal(self) -> Tokenizer:
        """The same tokenizer with every added token under its secret name: it takes all text literally."""
        content = json.loads(self._content)
        secret = self._secret_names
        for token in content["added_tokens"]:
            token["content"] = secret[token["content"]]
        model = content["model"]
        if isinstance(model.get("vocab"), dict):
            model["vocab"] = {secret.get(piece, piece): number for piece, number in model["vocab"].items()}
        elif isinstance(model.get("vocab"), list):
            model["vocab"] = [[secret.get(piece, piece), score] for piece, score in model["vocab"]]
        if model.get("unk_token") in secret:
            model["unk_token"] = secret[model["unk_token"]]
        content |= {"post_processor": None, "truncation": None, "padding": None}
        return Tokenizer.from_str(json.dumps(content))


def tokenizer_from_folder(folder: Path, chat: Chat) -> FastTokenizer:
    """The tokenizer of a folder in transformers' layout. Raises TokenizerError."""
    settings = _json(folder, "tokenizer_config.json")
    named = {name: value for name in NAMED_TOKENS if (value := _token_text(settings.get(name)))}
    for name, value in _json(folder, "special_tokens_map.json").items():
        if name in NAMED_TOKENS and (text := _token_text(value)):
            named.setdefault(name, text)
    if (folder / "tokenizer.json").is_file():
        content = read_file(folder, "tokenizer.json")
    else:
        content = _converted(folder)
    return FastTokenizer(content, _template(folder, settings), named, _stop_ids(folder), chat)


def _converted(folder: Path) -> bytes:
    """The `tokenizer.json` that transformers makes of older vocabulary files."""
    from transformers import AutoTokenizer

    try:
        if any(path.is_fifo() for path in folder.iterdir()):
            raise ValueError("a pipe would be waited for")
        with files.reached(folder) as reached, unheard("transformers"):
            tokenizer = AutoTokenizer.from_pretrained(str(reached), trust_remote_code=False, local_files_only=True)
        return tokenizer.backend_tokenizer.to_str().encode()
    except Exception:  # whatever is missing, the remedy is the same
        raise TokenizerError(
            _(
                "{folder} has no tokenizer that can be used: tokenizer.json is missing. Copy the "
                "tokenizer's files of the model into it.",
                folder=folder,
            )
        ) from None


def _template(folder: Path, settings: dict) -> str:
    """The chat template, from any of the places where it is kept."""
    if (folder / "chat_template.jinja").is_file():
        return read_file(folder, "chat_template.jinja").decode("utf-8", "replace")
    template = settings.get("chat_template") or _json(folder, "chat_template.json").get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if not isinstance(template, str) or not template:
        raise TokenizerError(
            _(
                "{folder} has no chat template: it is not a chat model, or tokenizer_config.json is not the model's.",
                folder=folder,
            )
        )
    return encodable(template)


def _stop_ids(folder: Path) -> set[int]:
    ids: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        value = _json(folder, name).get("eos_token_id")
        ids |= {token for token in (value if isinstance(value, list) else [value]) if type(token) is int}
    return ids


def _json(folder: Path, name: str) -> dict:
    if not (folder / name).is_file():
        return {}
    try:
        content = json.loads(read_file(folder, name))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise TokenizerError(_("{path} is not valid JSON.", path=folder / name))
    return content


def _token_text(value: object) -> str | None:
    """A token is written as its text or as an object that has it."""
    value = value.get("content") if isinstance(value, dict) else value
    return encodable(value) if isinstance(value, str) else None
