"""The models that are in the cache."""

from collections.abc import Iterator

from itrex_chat.artifacts.store import ArtifactStore
from itrex_chat.foundation.places import cache_home
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.source_spec import HUBS
from itrex_chat.sources import kept
from itrex_chat.sources.pushed import manifest_in


def cached_models(settings: list[str]) -> list[Recipe]:
    """The recipes of all artifacts in the cache, the newest of each kind, or the embedded default's."""
    artifacts = sorted(ArtifactStore().whole(), key=lambda artifact: artifact.manifest["created"])
    newest = {(artifact.name, *artifact.manifest["content"].values()): artifact for artifact in artifacts}
    found = [recipes.from_dict(artifact.manifest["recipe"]) for artifact in newest.values()]
    found += _pulled()
    return [recipes.overridden(recipe, settings) for recipe in found] or [recipes.load(recipes.EMBEDDED, settings)]


def _pulled() -> Iterator[Recipe]:
    """Those of artifacts that came from a hub."""
    for record in kept.records(cache_home() / "sources" / "hubs"):
        manifest, origin = manifest_in(record.folder), record.origin
        if manifest and origin.get("kind") in HUBS and isinstance(origin.get("repository"), str):
            asked = ["source.hub", origin["kind"], "source.revision", str(origin.get("revision") or "")]
            weight_dtype = ["quantization.weight_dtype", "int8"] if manifest["variant"] == "int8" else []
            yield recipes.load(origin["repository"], [*asked, *weight_dtype])
