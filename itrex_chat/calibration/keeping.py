"""What goes into the next block, kept on disk: where an interrupted quantization, or finding out what matrices cost, goes on."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from itrex_chat.foundation import files, stored

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


@dataclass(frozen=True)
class Branches:
    """What is known before block `number` of what matrices cost: float32 [tokens, hidden] of the texts as they are and of each branch,
    and by module the squared errors of its kinds and what it changed."""

    number: int
    x: torch.Tensor
    blocks: dict[str, torch.Tensor]
    sorts: dict[str, torch.Tensor]
    errors: dict[str, list[float]]
    changes: dict[str, float]


def write_branches(branches: Branches, path: Path) -> None:
    tensors = {"x": branches.x}
    tensors |= {f"blocks {name}": value for name, value in branches.blocks.items()}
    tensors |= {f"sorts {name}": value for name, value in branches.sorts.items()}
    told = {"number": branches.number, "errors": branches.errors, "changes": branches.changes}
    told |= {"blocks": list(branches.blocks), "sorts": list(branches.sorts)}  # in their order, as sums are
    with files.replacing(path) as partial, files.reached(partial.parent) as folder:
        save_file(tensors, folder / partial.name, metadata={"told": json.dumps(told)})


def read_branches(path: Path) -> Branches | None:
    """What was kept; None where there is no such file, or none that is whole. Its name says what it is of."""
    try:
        with files.reached(path) as reached, safe_open(reached, "pt") as file:
            told = stored.parsed_json(file.metadata()["told"])
            x = file.get_tensor("x").clone()
            blocks, sorts = (
                {name: file.get_tensor(f"{side} {name}").clone() for name in told[side]} for side in ("blocks", "sorts")
            )
        branches = Branches(told["number"], x, blocks, sorts, told["errors"], told["changes"])
        if any(each.shape != x.shape or each.dtype != x.dtype for each in (*blocks.values(), *sorts.values())):
            return None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
    return branches
