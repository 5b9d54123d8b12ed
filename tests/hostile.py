"""Opens and answers with models that somebody made to hurt: a process of its own, which a signal may end.

    python hostile.py FOLDER…    one line of JSON for each: how it ended

A folder holds `config.json` and weights, or a `.gguf` file, or `manifest.json` of an artifact.
"""

import json
import sys
import time
import traceback
from pathlib import Path

import torch

from itrex_chat import sources
from itrex_chat.artifacts import Artifact
from itrex_chat.chat import load_tokenizer
from itrex_chat.checkpoints import open_checkpoint
from itrex_chat.decoder.model import Decoder
from itrex_chat.engines.native.weights import load_dense, load_quantized
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.generation.loop import generate
from itrex_chat.kernels import KERNELS
from itrex_chat.settings.generation import GenerationConfig
from itrex_chat.settings.recipe import Chat

PROMPT = [5, 9, 7] * 8  # more than a decode step takes


class Ids:
    """As much of a tokenizer as an answer needs."""

    stop_ids: frozenset[int] = frozenset()
    strips_newline = False

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


def loaded(folder: Path) -> Decoder:
    if (folder / "manifest.json").is_file():
        return load_quantized(Artifact.open(folder), KERNELS["native"], "int8")
    source = sources.local(folder)
    checkpoint = open_checkpoint(source)
    if source.format == "gguf":
        load_tokenizer(folder, checkpoint.family, Chat(), source.weights[0])
    return load_dense(checkpoint, "fp32")


def ending(folder: Path) -> str:
    """ "answered", "refused: …" with the sentence, or "traceback: …"."""
    try:
        *_pieces, response = generate(
            loaded(folder), Ids(), PROMPT, GenerationConfig(max_new_tokens=3, do_sample=False)
        )
        return f"answered: {len(response.text)}"
    except ItrexChatError as error:
        return f"refused: {type(error).__name__}: {error}"
    except Exception:
        return "traceback: " + traceback.format_exc()


if __name__ == "__main__":
    torch.set_num_threads(2)
    for name in sys.argv[1:]:
        print(json.dumps({"folder": name, "begun": True}), flush=True)
        started = time.perf_counter()
        how = ending(Path(name))
        print(json.dumps({"folder": name, "how": how, "seconds": time.perf_counter() - started}), flush=True)
