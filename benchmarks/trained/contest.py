"""One comparison: the 16-bit model, llama.cpp's formats of it and this program's, both measured by both."""

import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from measuring import gguf_f16
from measuring.figures import Spread

from itrex_chat.engines.on_disk import of_checkpoint
from itrex_chat.foundation.digests import sha256, sha256_of_json
from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.files import write_json
from itrex_chat.neuralchat.chatbot import load_chatbot
from itrex_chat.quality.metrics import Positions
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.recipe import Recipe
from itrex_chat.sources.gguf_header import read_header
from trained import dequantized, divergence, speeds, vocabulary
from trained.divergence import Reference
from trained.llama_tools import Tools, windows_of

COMPARED = "compared.json"
TEXTS = ("same-kind", "other-kind")
FORMATS = {  # by name: llama.cpp's type, and whether an importance matrix weights it
    "Q4_0": ("Q4_0", False),
    "Q4_0, importance": ("Q4_0", True),
    "Q4_K_S": ("Q4_K_S", False),
    "Q4_K_S, importance": ("Q4_K_S", True),
    "Q4_K_M": ("Q4_K_M", False),
    "Q4_K_M, importance": ("Q4_K_M", True),
}
WIDENED = "Q4_0, as floats"  # the same weights without rounded activations: there both measures must agree


@dataclass(frozen=True)
class Contest:
    """`folder` has the trained model and its texts, and takes what is made of them."""

    folder: Path
    tools: Tools
    windows: int  # of each text
    calibration: int  # windows of the importance matrix's text

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @cached_property
    def made(self) -> Path:
        """Where the formats of this very model are."""
        folder = self.folder / f"made-{sha256(self.model / 'model.safetensors')[:12]}"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def f16(self) -> Path:
        return self.made / "f16.gguf"

    def files(self) -> dict[str, Path]:
        """llama.cpp's formats, made where they are missing."""
        importance = self.made / "importance.gguf"
        if not self.f16.is_file():
            gguf_f16.main(self.model, self.f16, partial(vocabulary.add_to_gguf, self.model))
        if not importance.is_file():
            self.tools.importance(self.f16, self.folder / "calibration.txt", importance, self.calibration)
        made = {}
        for name, (kind, weighted) in FORMATS.items():
            made[name] = self.made / f"{kind.lower()}{'-importance' if weighted else ''}.gguf"
            if not made[name].is_file():
                self.tools.quantize(self.f16, made[name], kind, importance if weighted else None)
        return made

    def recipe(self, settings: list[str]) -> Recipe:
        return recipes.load(str(self.model), settings)

    def compare(self, ours: dict[str, list[str]]) -> dict:
        """Everything but speed. `ours`: settings of a recipe, as --set takes them, by name. What was found of the same model
        on the same windows before stays."""
        files, weights = self.files(), self._weights()
        bases = {text: self.made / f"{text}-{self.windows}.base" for text in TEXTS}
        for text, base in bases.items():
            if not base.is_file():
                self.tools.base(self.f16, self.folder / f"{text}.txt", base, self.windows)
        self._check_tokens(bases)
        passages = [
            divergence.passage(text, number, ids)
            for text, base in bases.items()
            for number, ids in enumerate(windows_of(base), 1)
        ]
        about = {
            "model": self.made.name,
            "windows": len(passages),
            "positions": sum(part.positions for part in passages),
            "weights": weights,
        }
        before = read(self.folder / COMPARED)
        rows = before["rows"] if before.get("about") == about else {}
        reference, size = Reference(self.recipe([]), passages), dict[str, Any]()

        def keep(name: str, row: dict) -> None:
            rows[name] = row
            write_json(self.folder / COMPARED, {"about": about, "rows": rows})

        widened = self.made / "q4_0-floats.gguf"
        if not widened.is_file():
            self.tools.quantize(files["Q4_0"], widened, "F32")
        for name, file in {WIDENED: widened, **files}.items():
            if name not in rows:
                found = reference.found(recipes.load(str(file)), "fp32", name)
                size = {"bits": 8 * _tensor_bytes(file) / weights, "bytes": file.stat().st_size}
                size["format"] = FORMATS[name][0] if name in FORMATS else ""
                keep(name, self._row(bases, file, found) | size)
        for name, settings in ours.items():
            if rows.get(name, {}).get("settings") != settings:
                recipe, folder = self.recipe(settings), self.made / f"ours-{sha256_of_json(settings)[:12]}"
                artifact, floats = dequantized.write(recipe, folder), folder / "floats.gguf"
                gguf_f16.main(folder, floats, partial(vocabulary.add_to_gguf, self.model), "float32")
                found = reference.found(recipe, "int4", name)
                a_token = load_chatbot(recipe, "int4").facts()["weight_bytes"]
                size = {"bits": 8 * a_token / weights, "bytes": artifact.nbytes(), "settings": settings}
                size["format"] = _format(recipe)
                keep(name, self._row(bases, floats, found) | size)
        return {"about": about, "rows": rows}

    def speeds(self, ours: dict[str, list[str]], rounds: int, tokens: int) -> dict[str, Spread]:
        """Tokens per second by format: it does not matter who chose the integers."""
        files = self.files()
        theirs = {kind: files[name] for name, (kind, weighted) in FORMATS.items() if not weighted}
        variants = {_format(recipe): recipe for recipe in reversed([*map(self.recipe, ours.values())])}
        return speeds.measure(dict(reversed(variants.items())), theirs, self.tools, rounds, tokens)

    def _row(self, bases: dict[str, Path], file: Path, found: dict[str, Positions]) -> dict:
        ours = divergence.figures(found)
        return {
            "theirs": {text: asdict(self.tools.divergence(file, base)) for text, base in bases.items()},
            "by_window": {text: divergence.by_window(positions) for text, positions in found.items()},
            "ours": {text: {name: asdict(value) for name, value in all_of.items()} for text, all_of in ours.items()},
        }

    def _weights(self) -> int:
        _metadata, tensors = read_header(self.f16)
        return sum(math.prod(tensor.shape) for tensor in tensors.values())

    def _check_tokens(self, bases: dict[str, Path]) -> None:
        """Both programs find the same tokens. Raises RecipeError."""
        recipe = self.recipe([])
        tokenizer = of_checkpoint(recipe).tokenizer(recipe)
        for text, base in bases.items():
            theirs = [token for window in windows_of(base) for token in window]
            if tokenizer.encode((self.folder / f"{text}.txt").read_text("utf-8"))[: len(theirs)] != theirs:
                raise RecipeError(
                    f"llama.cpp finds other tokens in {text}.txt than this program; nothing can be compared."
                )


def _format(recipe: Recipe) -> str:
    """What decides on its speed; who chose the integers does not."""
    quantization = recipe.quantization
    groups = f"{quantization.budget:g} bits" if quantization.budget else f"groups of {quantization.group_size}"
    return f"INT4, {groups}, head {quantization.head}"


def _tensor_bytes(file: Path) -> int:
    """Of a model whose embedding is its head: one decoded token reads all of them."""
    _metadata, tensors = read_header(file)
    return sum(tensor.length for tensor in tensors.values())


def read(path: Path) -> dict:
    """What was written there before, nothing where nothing was."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}
