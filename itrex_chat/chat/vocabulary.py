"""Reading the vocabulary files of the original families."""

import base64
import os
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from itrex_chat.foundation import files
from itrex_chat.foundation.errors import TokenizerError
from itrex_chat.foundation.language import _

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
