"""Reading the vocabulary files of the original families."""

import base64
import os
import re
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from itrex_chat.foundation import files
from itrex_chat.foundation.errors import TokenizerError
from itrex_chat.foundation.language import _

BYTE = re.compile("<0x([0-9A-F]{2})>")
LARGEST = 256 << 20  # bytes; the process that reads it has its own bounds


def read_file(folder: Path, name: str) -> bytes:
    """A vocabulary file. Raises TokenizerError when the folder has none."""
    if not os.path.lexists(folder / name):
        raise TokenizerError(_("{folder} has no tokenizer: the file {name} is missing.", folder=folder, name=name))
    return files.bytes_of(folder / name, TokenizerError, LARGEST)


def sentencepiece(content: bytes, folder: Path) -> SentencePieceProcessor:
    try:
        return SentencePieceProcessor(model_proto=content)
    except (RuntimeError, ValueError, TypeError):
        raise TokenizerError(
            _("{path} is damaged: it is not a SentencePiece model.", path=folder / "tokenizer.model")
        ) from None


def piece_bytes(pieces: SentencePieceProcessor, token: int) -> bytes:
    """What a piece of a SentencePiece vocabulary stands for; nothing, where it has no such piece."""
    return marked_bytes(pieces.id_to_piece(token)) if 0 <= token < pieces.vocab_size() else b""


def marked_bytes(piece: str) -> bytes:
    """What a piece in SentencePiece's writing stands for: ▁ is a space, <0x41> a byte."""
    if byte := BYTE.fullmatch(piece):
        return bytes([int(byte[1], 16)])
    return piece.replace("▁", " ").encode()


def bytes_of_letters() -> dict[str, int]:
    """The letters in which byte-level vocabularies write bytes (GPT-2's): printable ones of Latin-1 for themselves, and
    those behind U+0100 for the others in their order."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


def tiktoken_ranks(content: bytes, path: Path) -> dict[bytes, int]:
    """The byte sequences of a `.tiktoken` file with their ranks, 0, 1, 2, …: base64 and a number on each line."""
    try:
        ranks = {
            base64.b64decode(token, validate=True): int(rank)
            for token, rank in (line.split() for line in content.splitlines() if line)
        }
        if not ranks or sorted(ranks.values()) != list(range(len(ranks))):
            raise ValueError
        return ranks
    except ValueError:
        raise TokenizerError(_("{path} is damaged: it is not a tiktoken vocabulary.", path=path)) from None
