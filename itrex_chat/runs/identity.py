"""What determines a model's answers in a run, as its record knows it: whether two runs, or two halves of one, asked the same."""

from pathlib import Path
from typing import Any, Protocol

from itrex_chat.runs.content import ModelRun, Run
from itrex_chat.settings.kv_cache import CacheFormats
from itrex_chat.settings.variant import ORDER, Variant

DRAFTS = ("generation.prompt_lookup", "generation.draft")  # answers are the same with them
SAMPLING = tuple(f"generation.{name}" for name in ("temperature", "top_k", "top_p", "seed"))  # nothing to a greedy one


class Files(Protocol):
    """Of a worker's facts (`jobs/event.py`) or of a record."""

    @property
    def digest(self) -> str | None: ...

    @property
    def stamp(self) -> str | None: ...


def artifact_key(folder: str) -> str:
    """The key of an artifact by its folder: the digest of its source's files and its quantization, the first 12 digits."""
    return Path(folder).name.rpartition("-")[2][:12]


def replaced(one: Files | None, other: Files | None) -> bool:
    """Whether these files are not the same, as far as one can tell: by what is in them, else by how they lie on the disk."""
    if one is None or other is None:
        return False
    if one.digest and other.digest:
        return one.digest != other.digest
    return bool(one.stamp and other.stamp and one.stamp != other.stamp)


def artifact_keys(facts: ModelRun) -> dict[str, str]:
    """The key of each variant's artifact."""
    return {variant: artifact_key(built.folder) for variant, built in (facts.artifacts or {}).items()}


def weights(facts: ModelRun) -> dict[str, str]:
    """What each variant's weights are: its artifact's key, and where there is none the digest of the model's files."""
    loads = {variant: run.load for variant, run in facts.variants.items()}
    digests = {
        variant: load.files.digest[:12] for variant, load in loads.items() if load and load.files and load.files.digest
    }
    return digests | artifact_keys(facts)


def differences(label: str, first: tuple[Run, ModelRun], second: tuple[Run, ModelRun]) -> list[str]:
    """What differs between a model of one run and that of the same label in another; what only one says does not."""
    keys, others = weights(first[1]), weights(second[1])
    shared = keys.keys() & others.keys()
    found = [
        f"{variant} {keys[variant]}/{others[variant]}" for variant in sorted(shared) if keys[variant] != others[variant]
    ]
    kept, others_kept = _kept(label, *first), _kept(label, *second)
    found += [
        f"{variant} kv_cache {kept[variant]}/{others_kept[variant]}"
        for variant in sorted(kept.keys() & others_kept.keys())
        if kept[variant] != others_kept[variant]
    ]
    one, other = _settings(label, *first), _settings(label, *second)
    ignored = set(DRAFTS)
    if not one.get("generation.do_sample") and not other.get("generation.do_sample"):
        ignored |= set(SAMPLING)
    differing = [name for name in one if name in other and one[name] != other[name] and name not in ignored]
    if shared:  # what the weights are tells more than where the model lay
        differing = [name for name in differing if not name.startswith("source.")]
    return found + differing


def _kept(label: str, run: Run, facts: ModelRun) -> dict[str, str]:
    """How each variant of this program's keeps keys and values."""
    formats = CacheFormats(**(run.spec.recipe(label) or {}).get("kv_cache", {}))
    return {name: formats.of(Variant.parse(name).bits) for name in facts.variants if name in ORDER}


def _settings(label: str, run: Run, facts: ModelRun) -> dict[str, Any]:
    """What was set, flat: "source.path", "generation.seed", …"""
    recipe = run.spec.recipe(label) or {}
    parts = {name: recipe.get(name) for name in ("source", "chat", "generation")}
    if facts.generation:
        parts["generation"] = facts.generation.as_dict()
    flat = {
        f"{part}.{name}": value
        for part, values in parts.items()
        if isinstance(values, dict)
        for name, value in values.items()
    }
    asked = run.spec.questions
    system = asked.system if facts.system is None and asked else facts.system
    return flat if system is None else flat | {"system": system}
