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


def write(inputs: torch.Tensor, path: Path) -> None:
    with files.reached(path.parent) as folder:
        save_file({"inputs": inputs}, folder / path.name)


def read(path: Path, shape: Iterable[int]) -> torch.Tensor | None:
    """Inputs that were kept; None where the file holds none of this shape."""
    try:
        with files.reached(path) as reached, safe_open(reached, "pt") as file:
            found = file.get_tensor("inputs")
    except (SafetensorError, OSError, ValueError):
        return None
    return found if tuple(found.shape) == tuple(shape) and found.dtype == torch.float32 else None
