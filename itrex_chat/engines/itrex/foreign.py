"""Models whose own code ITREX runs, where the user said `--trust-remote-code`.

The only place of this program where code that comes with a model is run, and
it is run in ITREX's process alone. Prompts, tokens and text are then ITREX's
and the model's own: this program knows neither its tokenizer nor its layers.
"""

import json
from pathlib import Path

from itrex_chat import sources
from itrex_chat.engines.itrex import environment
from itrex_chat.engines.itrex.process import Process
from itrex_chat.engines.on_disk import files_of
from itrex_chat.foundation.errors import EngineError, ItrexChatError
from itrex_chat.foundation.language import _
from itrex_chat.jobs.event import Facts
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import Variant

NAMES = (
    "llama",
    "mpt",
    "chatglm",
    "qwen",
    "mistral",
    "opt",
    "gpt",
    "bloom",
    "starcoder",
    "codegen",
    "phi-2",
    "baichuan",
)


class OwnTokenizer:
    """The tokenizer that ITREX loaded with the model, asked in its process."""

    strips_newline = False

    def __init__(self, process: Process, stop_ids: list[int]):
        self._process, self.stop_ids = process, frozenset(stop_ids)

    def decode(self, ids: list[int]) -> str:
        return self._process.ask("decode", ids=ids)["text"] if ids else ""


def load(
    recipe: Recipe, variant: Variant, home: Path, why: ItrexChatError
) -> tuple[Process, OwnTokenizer, tuple[int, int], Facts, dict]:
    """The process with the model of a local folder and its tokenizer, facts and limits. Raises `why` for anything else."""
    folder = Path(recipe.source.path).resolve()
    if not recipe.source.path or not (folder / "config.json").is_file():
        raise EngineError(
            _("{reason} With --trust-remote-code, ITREX takes a local folder only.", reason=why)
        ) from None
    precision = variant.precision
    process = Process(folder, _name(folder), precision, home)
    quantization = recipe.quantization
    try:
        loaded = process.load(
            variant=precision,
            artifact=None,
            own=None,
            matrices={},
            frequencies=[],
            trust=True,
            quantization=None
            if precision == "fp32"
            else {
                "bits": quantization.bits,
                "group_size": quantization.group_size,
                "weight_dtype": quantization.weight_dtype,
                "compute_dtype": quantization.compute_dtype,
            },
        )
        limits = process.ask("limits")
    except BaseException:
        process.close()
        raise
    source = sources.local(folder)
    facts = Facts(
        seconds=loaded["seconds"],
        memory=loaded["memory"],
        threads=loaded["threads"],
        kernel=f"ITREX {environment.find().version}",
        why="",
        compute_dtype=quantization.compute_dtype if variant.bits else precision,
        disk_bytes=source.size(),
        weight_bytes=loaded["weight_bytes"],
        stored=_("by its own code"),
        origin={"kind": "local", "path": str(folder)},
        files=files_of(source, home),
    )
    return process, OwnTokenizer(process, limits["stop_ids"]), (limits["context"], limits["vocabulary"]), facts, loaded


def explained(recipe: Recipe, why: ItrexChatError) -> str:
    """Why a model is refused, and that ITREX could run the code that comes with it where there is some."""
    try:
        own_code = "auto_map" in json.loads((Path(recipe.source.path) / "config.json").read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        own_code = False
    return str(why) + (
        _(" ITREX can run the code that comes with it, with all that you may do on this machine: --trust-remote-code")
        if own_code and recipe.source.path
        else ""
    )


def _name(folder: Path) -> str:
    """A name that ITREX's match understands, by the kind of the model."""
    try:
        kind = str(json.loads((folder / "config.json").read_text("utf-8")).get("model_type", "")).lower()
    except (ValueError, AttributeError):
        kind = ""
    return next((name for name in NAMES if name in kind or name in folder.name.lower()), "gpt")
