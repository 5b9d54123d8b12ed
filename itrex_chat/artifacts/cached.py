"""The models that are in the cache."""

from itrex_chat.artifacts.store import ArtifactStore
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.recipe import Recipe


def cached_models(settings: list[str]) -> list[Recipe]:
    """The recipes of all artifacts in the cache, the newest of each kind, or the embedded default's."""
    artifacts = sorted(ArtifactStore().whole(), key=lambda artifact: artifact.manifest["created"])
    newest = {(artifact.name, *artifact.manifest["content"].values()): artifact for artifact in artifacts}
    found = [recipes.from_dict(artifact.manifest["recipe"]) for artifact in newest.values()]
    return [recipes.overridden(recipe, settings) for recipe in found] or [recipes.load(recipes.EMBEDDED, settings)]
