"""Artifacts whose manifest, tensors or other files were changed, their digests right again or not."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

from fuzzed.asking import _level, ask, way
from fuzzed.binary import odd_safetensors
from fuzzed.case import Case, linked, written
from fuzzed.seeds import NOWHERE
from fuzzed.values import as_json, damaged, mutated
from fuzzed.vocabularies import change as change_vocabulary
from itrex_chat import cache, sources
from itrex_chat.artifacts import Artifact, ArtifactStore, manifest
from itrex_chat.artifacts.card import card
from itrex_chat.artifacts.pushed import pushed
from itrex_chat.foundation.digests import sha256_of_json
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.foundation.places import cache_home
from itrex_chat.settings import recipe as recipes

WEIGHTS = "model.safetensors"
PARTS = (
    "decoder",
    "decoder",
    "decoder",
    "decoder",
    "matrices",
    "matrices",
    "tensors",
    "files",
    "statistics",
    "recipe",
    "source",
)


def make(random: Random, folder: Path, seeds: Path) -> Case:
    seed = random.choice(sorted(path for path in (seeds / "artifacts").iterdir() if path.name != "cache"))
    content = manifest.read(seed)
    stem = f"{seed.name}-{content['content']['weight_dtype']}-g{content['content']['group_size']}"
    artifact = linked(seed, cache_home() / "artifacts" / f"{stem}-{content['key'][:12]}")
    done = []
    for _time in range(random.choice((1, 1, 1, 2))):
        change = random.choices(list(CHANGES), list(CHANGES.values()))[0]
        done.append(change(random, artifact))
    if random.random() < 0.85:
        _digested(artifact)
        done.append("digests right")
    variant, settings, text = way(random, quantized=True)
    level = _level(random)
    recipe = _recipe(content, f"{NOWHERE}/{seed.name}", settings)
    return Case(f"{seed.name}: {', '.join(done)}", lambda: _use(recipe, content["variant"], text, level))


def _recipe(content: dict, path: str, settings: list[str]) -> recipes.Recipe:
    """The recipe that the artifact was made of, with other settings for answers."""
    made = recipes.from_dict(content["recipe"])
    return recipes.overridden(replace(made, source=replace(made.source, path=path)), settings)


def _use(recipe: recipes.Recipe, variant: str, text: str, level: str) -> None:
    store = ArtifactStore()
    cache.list_all()
    for folder in store.folders():
        for use in (
            lambda folder=folder: cache.show(store, [folder.name]),
            lambda folder=folder: cache.verify(store, [folder.name]),
            lambda folder=folder: card(Artifact.open(folder), "owner/name"),
            lambda folder=folder: pushed(recipes.load(str(folder)), sources.local(folder)),
        ):
            try:
                use()
            except ItrexChatError as error:
                assert str(error)
    ask(recipe, variant, text, level)


def _manifest(random: Random, artifact: Path) -> str:
    content = _read(artifact)
    part = random.choice((*PARTS, None))
    if part in content:
        content[part] = mutated(content[part], random)
    else:
        content = mutated(content, random)
    written(artifact / manifest.FILE, as_json(content, random, 0.02))
    return f"manifest, {part}"


def _tensors(random: Random, artifact: Path) -> str:
    if not (artifact / WEIGHTS).is_file():  # a change before this one took it
        return f"no {WEIGHTS}"
    written(artifact / WEIGHTS, odd_safetensors((artifact / WEIGHTS).read_bytes(), random))
    return WEIGHTS


def _files(random: Random, artifact: Path) -> str:
    file = random.choice(sorted(path for path in artifact.iterdir() if path.is_file()))
    how = random.randrange(4)
    if how == 0:
        file.unlink()
    elif how == 1:
        file.unlink()
        file.mkdir()
    elif how == 2:
        shutil.copyfile(file, file.with_name("\x1b[31mmore.safetensors"))
    else:
        written(file, damaged(file.read_bytes(), random))
    return f"{file.name} {('gone', 'a folder', 'copied', 'damaged')[how]}"


def _vocabulary(random: Random, artifact: Path) -> str:
    return change_vocabulary(random, artifact)


CHANGES: dict[Callable[[Random, Path], str], float] = {_manifest: 7, _tensors: 4, _files: 1, _vocabulary: 2}


def _read(artifact: Path) -> dict:
    try:
        content = json.loads((artifact / manifest.FILE).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    return content if isinstance(content, dict) and content else {"format": 1}


def _digested(artifact: Path) -> None:
    """Sizes and digests as they must be for what is there now."""
    content = _read(artifact)
    content.pop("digest", None)
    recorded = content.get("files")
    if isinstance(recorded, dict):
        for name, entry in recorded.items():
            path = artifact / name if "\0" not in name and "/" not in name and len(name) < 200 else artifact
            if isinstance(entry, dict) and path.is_file():
                entry |= {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    path = artifact / manifest.FILE
    if path.is_file():
        try:
            written(path, json.dumps(content | {"digest": sha256_of_json(content)}).encode())
        except UnicodeEncodeError:  # half a character has no digest
            pass
