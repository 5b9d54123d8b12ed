"""Who takes part, in which environment, with which file of the model."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from itrex_chat.foundation.machine import available_memory
from itrex_chat.settings.recipe import overridden
from itrex_chat.sources.gguf_header import read_header
from measuring import environments
from measuring.models import Model
from measuring.processes import Unavailable

# Memory at the peak by weight of the model, roughly. ITREX has the whole FP32 model twice for a while.
BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2, "int4": 1, "itrex": 8}


@dataclass(frozen=True)
class Entry:
    """A contestant with a model, ready to start: interpreter, `peers` module, its file of the model, its options.

    `weight_bytes` that one decoded token reads, where the file tells; otherwise the contestant does.
    """

    python: Path
    module: str
    file: Path
    options: dict = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    weight_bytes: int | None = None


@dataclass(frozen=True)
class Contestant:
    """`enter` prepares whatever is missing, and raises Unavailable."""

    name: str
    title: str
    enter: Callable[[Model], Entry]


def _ours(variant: str, kernel: str | None = None, storage: str = "stored") -> Callable[[Model], Entry]:
    def enter(model: Model) -> Entry:
        recipe = overridden(model.recipe, ["fp32.storage", storage])
        in_16_bits = variant == "fp32" and storage == "stored" and model.stored in ("float16", "bfloat16")
        _check_memory(model, 2 if in_16_bits else BYTES[variant])
        if variant == "int4":
            model.artifact()
        return Entry(
            Path(sys.executable),
            "peers.this_program",
            Path(),
            {"variant": variant, "recipe": recipe.as_dict()},
            {"ITREX_CHAT_KERNEL": kernel or ""} if kernel or variant != "int4" else {},
        )  # set outside: for INT4

    return enter


def _llama_cpp(model: Model) -> Entry:
    file = model.gguf()
    _metadata, tensors = read_header(file)
    embedding = tensors["token_embd.weight"].length if "output.weight" in tensors else 0
    return Entry(
        environments.llama_cpp().python(),
        "peers.llama_cpp",
        file,
        weight_bytes=sum(tensor.length for tensor in tensors.values()) - embedding,
    )


def _openvino(model: Model) -> Entry:
    folder = model.openvino()
    config = json.loads((folder / "config.json").read_text("utf-8"))
    # An untied embedding is INT8 with a zero point and a float16 scale for each row.
    embedding = 0 if config["tie_word_embeddings"] else config["vocab_size"] * (config["hidden_size"] + 3)
    return Entry(
        environments.openvino().python(),
        "peers.openvino_genai",
        folder,
        weight_bytes=(folder / "openvino_model.bin").stat().st_size - embedding,
    )


def _transformers(dtype: str) -> Callable[[Model], Entry]:
    def enter(model: Model) -> Entry:
        _check_memory(model, BYTES[dtype])
        return Entry(Path(sys.executable), "peers.transformers_dense", model.dense(), {"dtype": dtype})

    return enter


def _itrex(model: Model) -> Entry:
    _check_memory(model, BYTES["itrex"])
    return Entry(environments.itrex().python(), "peers.itrex", model.itrex())


def _check_memory(model: Model, bytes_per_weight: float) -> None:
    needed, free = model.parameters() * bytes_per_weight / 1e9, available_memory() / 1e9
    if needed > free:
        raise Unavailable(f"it needs some {needed:.0f} GB of memory, but {free:.0f} GB are free")


BASE = "int4"  # the one that the others are compared with
VARIANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant("int4", "itrex_chat INT4", _ours("int4")),
        Contestant("bf16", "itrex_chat BF16", _ours("bf16")),
        Contestant("fp32", "itrex_chat FP32", _ours("fp32")),
        Contestant("fp32-wide", "itrex_chat FP32, kept in 32 bits", _ours("fp32", storage="fp32")),
    )
}
PEERS = {
    contestant.name: contestant
    for contestant in (
        Contestant("llama.cpp", "llama.cpp Q4_0", _llama_cpp),
        Contestant("openvino", "OpenVINO GenAI INT4", _openvino),
        Contestant("ark", "auto-round-lib's kernels (itrex_chat INT4, ark)", _ours("int4", "ark")),
        Contestant("itrex", "ITREX 1.4.2 INT4", _itrex),
        Contestant("transformers-bf16", "transformers BF16", _transformers("bfloat16")),
        Contestant("transformers-fp32", "transformers FP32", _transformers("float32")),
    )
}
