"""A model in every contestant's format, each made once in the cache.

A format is a folder `cache/benchmarks/models/NAME-KEY/FORMAT` with `made.json`, which says how it was made, how long
that took and the peak of memory. It is made under another name and renamed when whole.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from itrex_chat import sources
from itrex_chat.foundation.files import write_json
from itrex_chat.foundation.places import cache_home
from itrex_chat.settings import recipe as recipes
from measuring import environments
from measuring.processes import Made, convert


@dataclass(frozen=True)
class Model:
    """A model by its recipe's name or path, or the name of a shape (`dense.SHAPES`), which has random weights."""

    given: str
    shape: bool = False

    @cached_property
    def name(self) -> str:
        return self.given if self.shape else recipes.load(self.given).name

    @cached_property
    def folder(self) -> Path:
        if self.shape:
            return cache_home() / "benchmarks" / "models" / self.name
        source = sources.resolve(recipes.load(self.given))
        digests = source.digests()
        key = min(digests[path.name] for path in source.weights)
        return cache_home() / "benchmarks" / "models" / f"{self.name}-{key[:12]}"

    @cached_property
    def recipe(self) -> recipes.Recipe:
        """What this program loads: the model as it was given, not a copy."""
        return recipes.load(str(self.dense()) if self.shape else self.given)

    @cached_property
    def stored(self) -> str:
        """What most of its weights are stored as: "bfloat16", "GGUF Q4_K"."""
        from itrex_chat.checkpoints import open_checkpoint

        return open_checkpoint(sources.resolve(self.recipe)).description

    def dense(self) -> Path:
        """A folder that transformers reads."""
        arguments = ["--shape", self.given] if self.shape else [self.given]
        return self._format("dense", lambda: [sys.executable, "-m", "measuring.dense", *arguments, "TARGET"])

    def artifact(self) -> None:
        """Have this program's INT4 artifact in its cache."""
        convert(
            [sys.executable, "-m", "itrex_chat.quantize", "--model", str(self.dense()) if self.shape else self.given]
        )

    def gguf_source(self) -> Path:
        """What llama.cpp quantizes: the GGUF file that was given, else a float16 one."""
        if not self.shape and (source := sources.resolve(self.recipe)).format == "gguf":
            return source.weights[0]
        folder = self._format(
            "f16", lambda: [sys.executable, "-m", "measuring.gguf_f16", self.dense(), "TARGET/f16.gguf"]
        )
        return folder / "f16.gguf"

    def gguf(self) -> Path:
        """llama.cpp's Q4_0, requantized where the source was quantized before."""
        return (
            self._format(
                "q4_0",
                lambda: [
                    environments.llama_cpp().python(),
                    "-m",
                    "peers.llama_cpp",
                    "quantize",
                    self.gguf_source(),
                    "TARGET/q4_0.gguf",
                ],
            )
            / "q4_0.gguf"
        )

    def openvino(self) -> Path:
        return self._format(
            "openvino",
            lambda: [environments.openvino().python(), "-m", "peers.openvino_genai", "convert", self.dense(), "TARGET"],
        )

    def itrex(self) -> Path:
        """The dense folder with a configuration in the words of transformers 4.38."""
        config = json.loads((self.dense() / "config.json").read_text("utf-8"))
        folder = self.folder / f"itrex-{config['model_type']}"  # ITREX goes by the folder's name
        folder.mkdir(exist_ok=True)
        for file in self.dense().glob("model*"):
            if not (folder / file.name).exists():
                (folder / file.name).symlink_to(file)
        older = {"rope_theta": config["rope_parameters"]["rope_theta"], "torch_dtype": "float16"}
        write_json(folder / "config.json", {key: value for key, value in config.items() if key != "dtype"} | older)
        return folder

    def parameters(self) -> int:
        """How many weights it has."""
        return sum(file.stat().st_size for file in self.dense().glob("*.safetensors")) // 2

    def made(self) -> dict[str, Made]:
        """The formats that exist, and what each took."""
        return {
            file.parent.name: Made(**json.loads(file.read_text("utf-8")))
            for file in sorted(self.folder.glob("*/made.json"))
        }

    def _format(self, name: str, command: Callable[[], list]) -> Path:
        """The folder of a format, made if it is not there; only then are the formats made that `command` names."""
        folder = self.folder / name
        if not (folder / "made.json").is_file():
            print(f"{self.name}: making {name} (once)", file=sys.stderr, flush=True)
            partial = self.folder / f".{name}.{os.getpid()}.partial"
            partial.mkdir(parents=True)
            try:
                made = convert([str(part).replace("TARGET", str(partial)) for part in command()])
                write_json(partial / "made.json", asdict(made))
                shutil.rmtree(folder, ignore_errors=True)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return folder
