"""One comparison: the 16-bit model, llama.cpp's formats of it and this program's, both measured by both."""

import math
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

from measuring import gguf_f16

from itrex_chat.engines.on_disk import of_checkpoint
from itrex_chat.foundation.digests import sha256
from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.files import write_json
from itrex_chat.neuralchat.chatbot import load_chatbot
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.recipe import Recipe
from itrex_chat.sources.gguf_header import read_header
from trained import dequantized, divergence, vocabulary
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
        """Everything but speed. `ours`: settings of a recipe, as --set takes them, by name."""
        files = self.files()
        bases = {text: self.made / f"{text}.base" for text in TEXTS}
        for text, base in bases.items():
            self.tools.base(self.f16, self.folder / f"{text}.txt", base, self.windows)
        self._check_tokens(bases)
        passages = [
            divergence.passage(text, number, ids)
            for text, base in bases.items()
            for number, ids in enumerate(windows_of(base), 1)
        ]
        plain = self.recipe([])
        reference, weights = Reference.of(plain, passages), self._weights()
        widened = self.made / "q4_0-floats.gguf"
        self.tools.quantize(files["Q4_0"], widened, "F32")
        rows = {}
        for name, file in {WIDENED: widened, **files}.items():
            rows[name] = self._row(
                bases, file, divergence.figures(reference.found(recipes.load(str(file)), "fp32", name))
            )
            rows[name] |= {"bits": 8 * _tensor_bytes(file) / weights, "bytes": file.stat().st_size}
        for name, settings in ours.items():
            recipe, folder = self.recipe(settings), self.made / f"ours-{len(rows)}"
            artifact, floats = dequantized.write(recipe, folder), folder / "floats.gguf"
            gguf_f16.main(folder, floats, partial(vocabulary.add_to_gguf, self.model), "float32")
            rows[name] = self._row(bases, floats, divergence.figures(reference.found(recipe, "int4", name)))
            read = load_chatbot(recipe, "int4").facts()["weight_bytes"]
            rows[name] |= {"bits": 8 * read / weights, "bytes": artifact.nbytes(), "settings": settings}
        about = {"windows": len(passages), "positions": sum(part.positions for part in passages), "weights": weights}
        found = {"about": about, "rows": rows}
        write_json(self.folder / COMPARED, found)
        return found

    def _row(self, bases: dict[str, Path], file: Path, ours: dict) -> dict:
        return {
            "theirs": {text: asdict(self.tools.divergence(file, base)) for text, base in bases.items()},
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


def _tensor_bytes(file: Path) -> int:
    """Of a model whose embedding is its head: one decoded token reads all of them."""
    _metadata, tensors = read_header(file)
    return sum(tensor.length for tensor in tensors.values())
