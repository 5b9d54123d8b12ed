"""Recipes: what to build, from which source, quantized how.

A recipe is a YAML file in `recipes/`, read with yacs over the defaults below;
a local folder or a `.gguf` file is a recipe whose source is that path and
whose other settings are the defaults. `Recipe` is the type the rest of the
program sees.
"""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from yacs.config import CfgNode

from itrex_chat.foundation.choices import did_you_mean, one_of
from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.harmless import encodable
from itrex_chat.foundation.language import LANGUAGES, _
from itrex_chat.foundation.places import data_folder, expanded
from itrex_chat.foundation.yaml_file import read_mapping
from itrex_chat.settings.about import About
from itrex_chat.settings.generation import AUTO, GenerationConfig
from itrex_chat.settings.kv_cache import CacheFormats
from itrex_chat.settings.overriding import at, merge, nested, parsed, plain
from itrex_chat.settings.quantization import Quantization, named_text
from itrex_chat.settings.source_spec import HUBS, REPOSITORY, Package, SourceSpec

CONTROL_TEXTS = ("literal", "published")
STORAGES = ("stored", "fp32")
EMBEDDED = "smollm2-135m"
MOST_GB = 1_000_000


@dataclass(frozen=True)
class Fp32:
    """How the FP32 variant keeps matrices: `storage` "stored" as the checkpoint has them, also in 16 bits, or "fp32".

    What it computes is the same to the last bit; 16 bits take half the memory and are read in half the time. `memory` in GB
    is the most that it may take, BF16 too, 0 all that is left; what does not fit is read from disk for each pass.
    """

    storage: str = "stored"
    memory: float = 0.0

    def __post_init__(self) -> None:
        one_of("fp32.storage", self.storage, STORAGES)
        if isinstance(self.memory, bool) or not isinstance(self.memory, (int, float)) or not 0 <= self.memory < MOST_GB:
            raise RecipeError(
                _(
                    "fp32.memory cannot be {value!r}: it is a number of GB from 0 (all that is left) to less than {bound:,}.",
                    value=self.memory,
                    bound=MOST_GB,
                )
            )


@dataclass(frozen=True)
class Chat:
    """How messages become a prompt, beyond what the model's family defines.

    `system` is the system message when a conversation has none; `thinking`
    goes to chat templates that can switch a reasoning phase on and off;
    `control_text` is about Baichuan2 alone, see `chat/baichuan2.py`.
    """

    system: str = ""
    thinking: bool = False
    control_text: str = "published"

    def __post_init__(self) -> None:
        one_of("chat.control_text", self.control_text, CONTROL_TEXTS)


@dataclass(frozen=True)
class Recipe:
    name: str
    source: SourceSpec = SourceSpec()
    family: str = ""  # "" is whatever the checkpoint says
    languages: tuple[str, ...] = ()  # () is found out from the vocabulary
    quantization: Quantization = Quantization()
    fp32: Fp32 = Fp32()
    kv_cache: CacheFormats = CacheFormats()
    generation: GenerationConfig = GenerationConfig()
    chat: Chat = Chat()
    about: About = dataclasses.field(default=About(), compare=False)

    def __post_init__(self) -> None:
        one_of("source.hub", self.source.hub, HUBS)
        for language in self.languages:
            one_of("languages", language, LANGUAGES)

    def keeping(self, cache_format: str | None) -> "Recipe":
        """This recipe with the keys and values of all variants in a format, if one is given."""
        return replace(self, kv_cache=CacheFormats(cache_format, cache_format)) if cache_format else self

    def as_dict(self) -> dict:
        """Plain values for JSON; without settings that older versions did not have where they are the defaults, so that a
        run of such a version goes on."""
        values = asdict(self)
        del values["about"]  # nothing of a run or an artifact depends on it
        if self.generation.draft == AUTO:
            del values["generation"]["draft"]
        if self.fp32 == Fp32():
            del values["fp32"]
        elif not self.fp32.memory:
            del values["fp32"]["memory"]
        if self.kv_cache == CacheFormats():
            del values["kv_cache"]
        for name in ("integers", "algorithm", "calibration", "calibration_tokens", "iterations", "budget"):
            if getattr(self.quantization, name) == getattr(Quantization(), name):
                del values["quantization"][name]
        return values


def names() -> list[str]:
    """The recipes that exist, sorted."""
    return sorted(file.stem for file in data_folder("recipes").glob("*.yaml"))


def load(model: str, settings: Sequence[str] = ()) -> Recipe:
    """The recipe for what a user names: a recipe, a local folder or a `.gguf` file.

    `settings` are alternating keys and values that override it, as in
    ["quantization.group_size", "64"].
    Raises RecipeError when there is no such model, key or value.
    """
    path = expanded(model)
    _check_text(model)
    if model in names():
        return read(data_folder("recipes") / f"{model}.yaml", settings)
    if path.suffix in (".yaml", ".yml") and os.path.isfile(path):
        return read(path, settings)
    if model and os.path.exists(path):  # not Path.exists, which raises errors of its own
        path = path.resolve()
        name = path.stem if path.is_file() else path.name or str(path)
        return _build(_defaults(), name, settings, replace(SourceSpec(), path=str(path)))
    if REPOSITORY.fullmatch(model) and path.suffix != ".gguf":
        return _repository(model, settings)
    raise RecipeError(
        _(
            "There is no model {model}.{hint} Known: {names}; a folder, a .gguf file, a recipe file or a hub's "
            "owner/name works too.",
            model=model,
            hint=did_you_mean(path.name, names()),
            names=", ".join(names()),
        )
    )


def _check_text(given: str) -> None:
    """Raise RecipeError for what no record could hold: a name in bytes that are no text in the user's locale."""
    if encodable(given) != given:
        raise RecipeError(
            _(
                "{name} is not text in UTF-8, or not in this locale; give it another name, or try again with LC_ALL=C.UTF-8.",
                name=encodable(given),
            )
        )


def overridden(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with keys set as in `load`. Raises RecipeError."""
    node = _defaults()
    merge(node, _lists(recipe.as_dict()), recipe.name)
    return _build(node, recipe.name, settings)


def from_dict(values: dict) -> Recipe:
    """The recipe that `Recipe.as_dict` described."""
    package = Package(**values["source"]["package"])
    return Recipe(
        name=values["name"],
        source=SourceSpec(**(values["source"] | {"package": package})),
        family=values["family"],
        languages=tuple(values["languages"]),
        quantization=_quantization(values["quantization"]),
        fp32=Fp32(**values.get("fp32", {})),
        kv_cache=CacheFormats(**values.get("kv_cache", {})),
        generation=GenerationConfig(**values["generation"]),
        chat=Chat(**values["chat"]),
        about=About(**values.get("about", {})),
    )


def _quantization(values: dict) -> Quantization:
    return Quantization(**(values | {name: tuple(values.get(name, ())) for name in ("keep_layers", "calibration")}))


def read(file: Path, settings: Sequence[str] = ()) -> Recipe:
    """The recipe in `file`, a YAML file; its `source.path` is as seen from the file. Raises RecipeError naming the file and the key."""
    node, given = _defaults(), read_mapping(file, RecipeError)
    merge(node, given, str(file))
    _locate(node, file.parent)
    return _build(node, file.stem, settings)


def _defaults() -> CfgNode:
    return CfgNode(_lists(asdict(Recipe(name=""))))


def _lists(values: dict) -> dict:
    """Tuples as the lists that YAML and yacs know."""
    return {
        key: _lists(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
    }


def _build(node: CfgNode, name: str, settings: Sequence[str], source: SourceSpec | None = None) -> Recipe:
    if len(settings) % 2:
        raise RecipeError(_("--set takes a key and a value; {key} has no value.", key=settings[-1]))
    for key, text in zip(settings[::2], settings[1::2]):
        _check_text(key + text)
        value = text if isinstance(at(node, key), str) else parsed(text)
        merge(node, nested(key, value), f"--set {key}")
    _locate(node, Path())
    recipe = from_dict(plain(node))
    return replace(recipe, name=recipe.name or name, source=source or recipe.source)


def _locate(node: CfgNode, folder: Path) -> None:
    """Make paths as seen from `folder` such that mean the same from everywhere."""
    if node.source.path:
        node.source.path = os.path.abspath(folder / expanded(node.source.path))
    node.quantization.calibration = [
        named_text(path, folder) if isinstance(path, str) and path else path for path in node.quantization.calibration
    ]


def _repository(name: str, settings: Sequence[str]) -> Recipe:
    """A hub's repository by its name: the recipe that uses it, or one with the defaults."""
    for known in names():
        recipe = read(data_folder("recipes") / f"{known}.yaml", settings)
        if (
            name.lower() in (recipe.source.modelscope.lower(), recipe.source.huggingface.lower())
            and not recipe.source.package.name
        ):
            return recipe
    source = {"source": {"modelscope": name, "huggingface": name}}
    node = _defaults()
    merge(node, source, name)
    return _build(node, name.partition("/")[2], settings)
