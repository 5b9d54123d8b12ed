"""The inputs of the next block, kept on disk: where an interrupted quantization goes on."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from itrex_chat.foundation import files

NAME = re.compile(r"inputs-(\d{5})\.kept")


def name_of(number: int) -> str:
    """The file of a block's inputs."""
    return f"inputs-{number:05d}.kept"


def number_of(name: str) -> int | None:
    """The block whose inputs a file of this name holds; None for another file."""
    found = NAME.fullmatch(name)
    return int(found[1]) if found else None


def write(inputs: torch.Tensor, exact: torch.Tensor | None, path: Path) -> None:
    """Keep a block's inputs, and what they are where nothing is quantized, if anything follows that."""
    with files.reached(path.parent) as folder:
        save_file({"inputs": inputs} | ({} if exact is None else {"exact": exact}), folder / path.name)


def read(path: Path, shape: Iterable[int], follows: bool) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """What was kept of a block; None where the file does not hold it in this shape."""
    try:
        with files.reached(path) as reached, safe_open(reached, "pt") as file:
            found = [file.get_tensor(name) for name in ("inputs", "exact")[: 1 + follows]]
    except (SafetensorError, OSError, ValueError):
        return None
    if any(tuple(each.shape) != tuple(shape) or each.dtype != torch.float32 for each in found):
        return None
    return found[0], found[1] if follows else None
