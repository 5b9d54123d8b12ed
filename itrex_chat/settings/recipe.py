"""Recipes: what to build, from which source, quantized how.

A recipe is a YAML file in `recipes/`, read with yacs over the defaults below;
a local folder or a `.gguf` file is a recipe whose source is that path and
whose other settings are the defaults. `Recipe` is the type the rest of the
program sees.
"""

import dataclasses
import os
import re
import reprlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from itrex_chat.foundation import yaml_file
from itrex_chat.foundation.choices import called, did_you_mean, one_of
from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.harmless import encodable
from itrex_chat.foundation.language import LANGUAGES, _
from itrex_chat.foundation.places import data_folder, expanded
from itrex_chat.foundation.yaml_file import read_mapping
from itrex_chat.settings.about import About
from itrex_chat.settings.generation import AUTO, GenerationConfig
from itrex_chat.settings.kv_cache import CacheFormats

WEIGHT_DTYPES = {"int4_fullrange": 4, "int4_clip": 4, "int8": 8}
ALGORITHMS = ("rtn", "search", "importance", "gptq")
CALIBRATED = ("importance", "gptq")  # those that go by the inputs that texts give
CALIBRATION_TOKENS = 65536  # 128 windows
MOST_CALIBRATION_TOKENS = 1 << 20
GROUP_SIZES = (32, 64, 128)
HEADS = ("int8", "int4", "none")
INTEGERS = ("auto", "stored", "new")
COMPUTE_DTYPES = ("int8", "bf16", "fp32")
HUBS = ("modelscope", "huggingface")
CONTROL_TEXTS = ("literal", "published")
STORAGES = ("stored", "fp32")
EMBEDDED = "smollm2-135m"
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Package:
    """A file inside a Python package, used as data: name and version on the index, member and its SHA-256."""

    name: str = ""
    version: str = ""
    file: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        forms = {
            "name": r"[A-Za-z0-9][\w.-]*",
            "version": r"\d[\w.!+]*",
            "file": r"[\w.-][^\0]*",
            "sha256": r"[0-9a-f]{64}",
        }
        for field, form in forms.items():
            if any(vars(self).values()) and not re.fullmatch(form, getattr(self, field), re.ASCII):
                raise RecipeError(
                    _("source.package.{field} cannot be {value!r}.", field=field, value=getattr(self, field))
                )


@dataclass(frozen=True)
class SourceSpec:
    """Where a model comes from: a hub's repository, a package's file or a local path.

    An empty `revision` means the hub's default branch, as it is at the first
    download; the commit found then is recorded and used from then on.
    """

    hub: str = "modelscope"
    modelscope: str = ""
    huggingface: str = ""
    revision: str = ""
    path: str = ""
    package: Package = Package()


@dataclass(frozen=True)
class Quantization:
    """Weight-only quantization of the linear layers.

    `weight_dtype` int4_fullrange, int4_clip or int8; `group_size` weights of
    one row share a scale; `head` is the output projection's precision;
    `compute_dtype` is what activations are multiplied in and does not change
    the artifact. `keep_layers` are decoder blocks, counted from 0, whose
    matrices stay as they are stored. `integers` says whose are taken where a
    checkpoint has some: those that are "stored", or "new" ones; "auto" is
    "stored" for GPTQ, AWQ and their like with as many bits, else "new".
    `algorithm` finds the integers and scales of 4 bits: "rtn" rounds to nearest, "search" looks for the scales that lose
    least, "importance" weighs what is lost by the inputs that texts give, "gptq" makes up for each weight's error with the
    weights behind it. `calibration` are these texts' files, () the program's own, of which `calibration_tokens` are read.
    """

    weight_dtype: str = "int4_fullrange"
    group_size: int = 32
    head: str = "int8"
    compute_dtype: str = "int8"
    keep_layers: tuple[int, ...] = ()
    integers: str = "auto"
    algorithm: str = "rtn"
    calibration: tuple[str, ...] = ()
    calibration_tokens: int = CALIBRATION_TOKENS

    @property
    def bits(self) -> int:
        return WEIGHT_DTYPES[self.weight_dtype]

    @property
    def effective_algorithm(self) -> str:
        """The algorithm that makes a difference: 8 bits are rounded to nearest."""
        return self.algorithm if self.bits == 4 else "rtn"

    @property
    def calibrated(self) -> bool:
        """Whether texts are read."""
        return self.effective_algorithm in CALIBRATED

    def __post_init__(self) -> None:
        one_of("quantization.weight_dtype", self.weight_dtype, tuple(WEIGHT_DTYPES))
        one_of("quantization.group_size", self.group_size, GROUP_SIZES)
        one_of("quantization.head", self.head, HEADS)
        one_of("quantization.compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        one_of("quantization.integers", self.integers, INTEGERS)
        if any(type(number) is not int or number < 0 for number in self.keep_layers):
            raise RecipeError(
                _(
                    "quantization.keep_layers must be numbers of layers from 0 on, such as [0, 23], not {value!r}.",
                    value=list(self.keep_layers),
                )
            )
        one_of("quantization.algorithm", self.algorithm, ALGORITHMS)
        if any(type(path) is not str or not path for path in self.calibration):
            raise RecipeError(
                _(
                    "quantization.calibration must be names of text files, such as [book.txt], not {value!r}.",
                    value=list(self.calibration),
                )
            )
        if self.calibration and self.algorithm not in CALIBRATED:
            raise RecipeError(
                _(
                    "quantization.calibration is for the algorithms {names}; {algorithm} reads no texts.",
                    names=", ".join(CALIBRATED),
                    algorithm=self.algorithm,
                )
            )
        if type(self.calibration_tokens) is not int or not 512 <= self.calibration_tokens <= MOST_CALIBRATION_TOKENS:
            raise RecipeError(
                _(
                    "quantization.calibration_tokens cannot be {value!r}: it is a number from {least} to {most}.",
                    value=self.calibration_tokens,
                    least=512,
                    most=MOST_CALIBRATION_TOKENS,
                )
            )


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
        for name in ("integers", "algorithm", "calibration", "calibration_tokens"):
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
    _merge(node, _lists(recipe.as_dict()), recipe.name)
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
    _merge(node, given, str(file))
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
        value = text if isinstance(_at(node, key), str) else _parsed(text)
        _merge(node, _nested(key, value), f"--set {key}")
    _locate(node, Path())
    recipe = from_dict(_plain(node))
    return replace(recipe, name=recipe.name or name, source=source or recipe.source)


def _locate(node: CfgNode, folder: Path) -> None:
    """Make paths as seen from `folder` such that mean the same from everywhere."""
    if node.source.path:
        node.source.path = os.path.abspath(folder / expanded(node.source.path))
    node.quantization.calibration = [
        os.path.abspath(folder / expanded(path)) if isinstance(path, str) and path else path
        for path in node.quantization.calibration
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
    _merge(node, source, name)
    return _build(node, name.partition("/")[2], settings)


def _merge(node: CfgNode, given: dict, where: str) -> None:
    """Merge plain values into `node`, with yacs checking keys and types."""
    _check(node, given, where)
    try:
        node.merge_from_other_cfg(CfgNode(_quoted(given)))
    except (KeyError, ValueError, AssertionError, RecursionError, MemoryError) as error:
        raise RecipeError(_("{where}: {reason}.", where=where, reason=_brief(error))) from None


def _check(node: CfgNode, given: dict, where: str, prefix: str = "") -> None:
    """Name the first key or type that yacs would refuse, and make 1 a float and 1e3 an int where such are meant."""
    for key, value in given.items():
        path = f"{prefix}{key}"
        if key not in node:
            raise RecipeError(
                _("{where}: there is no key {key}.{hint}", where=where, key=path, hint=did_you_mean(key, _paths(node)))
            )
        wanted = node[key]
        if isinstance(wanted, float) and type(value) is int:
            given[key] = value = float(value)
        if type(wanted) is int and type(value) is float and value.is_integer():
            given[key] = value = int(value)
        if isinstance(wanted, CfgNode) and isinstance(value, dict):
            _check(wanted, value, where, f"{path}.")
        elif isinstance(wanted, CfgNode) or (wanted is not None and type(value) is not type(wanted)):
            raise RecipeError(
                _(
                    "{where}: {key} must be {kind}, not {value}.",
                    where=where,
                    key=path,
                    kind=called(type(wanted)),
                    value=reprlib.repr(value),
                )
            )


def _paths(node: CfgNode) -> list[str]:
    """The keys of a section, and those in its sections: "chat", "chat.system", …"""
    inner = [f"{key}.{path}" for key, value in node.items() if isinstance(value, CfgNode) for path in _paths(value)]
    return [*node, *inner]


def _quoted(given: dict) -> dict:
    """Texts in quotes, which yacs takes off again: without them it would read the text "1.10" as a number."""
    return {
        key: _quoted(value) if isinstance(value, dict) else repr(value) if isinstance(value, str) else value
        for key, value in given.items()
    }


def _at(node: CfgNode, key: str) -> Any:
    """What is at a key such as "chat.system" now; None where there is no such key."""
    value: Any = node
    for part in key.split("."):
        value = value.get(part) if isinstance(value, CfgNode) else None
    return value


def _nested(key: str, value: Any) -> dict:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _parsed(text: str) -> Any:
    """The value of a `--set` where no text is meant: YAML, or the text itself where that is none."""
    try:
        return yaml_file.parsed(text)
    except yaml.YAMLError:
        return text


def _plain(node: CfgNode) -> dict:
    return {key: _plain(value) if isinstance(value, CfgNode) else value for key, value in node.items()}


def _brief(error: Exception) -> str:
    """An error's own words on one line, without a closing full stop."""
    return " ".join(str(error.args[0] if error.args else error).split()).rstrip(".")[:300]
