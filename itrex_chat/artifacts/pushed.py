"""Artifacts that somebody else made: a hub's repository, or a folder, that holds one with its manifest.

They stay where they are and are never taken for artifacts that were quantized here: whose key one claims to have, it may not
be. `push.py` makes such repositories.
"""

from pathlib import Path

from itrex_chat.artifacts.artifact import Artifact
from itrex_chat.artifacts.manifest import NUMERICS_VERSION, content_settings
from itrex_chat.foundation.errors import ArtifactError
from itrex_chat.foundation.language import _
from itrex_chat.settings.quantization import Quantization
from itrex_chat.settings.recipe import Recipe
from itrex_chat.sources import Source
from itrex_chat.sources.pushed import manifest_in, refusal


def pushed(recipe: Recipe, source: Source) -> Artifact | None:
    """The artifact that a source is; None for originals. Raises ArtifactError where it is damaged or not what is asked for."""
    found = manifest_in(source.folder)
    if found is None or source.format != "safetensors":
        return None
    artifact = Artifact.open(source.folder)
    if artifact.manifest["numerics"] != NUMERICS_VERSION:
        raise ArtifactError(
            _(
                "{folder} was quantized by another version of this program; its originals are needed.",
                folder=source.folder,
            )
        )
    if not _fits(recipe.quantization, artifact):
        raise ArtifactError(refusal(source.origin, artifact.manifest))
    return artifact


def is_pushed(artifact: Artifact, home: Path) -> bool:
    """Whether an artifact is not one that was quantized into this cache."""
    return artifact.folder.parent != home / "artifacts"


def refused(artifact: Artifact, damage: ArtifactError) -> ArtifactError:
    """What is raised for one whose files are not those of its manifest."""
    return ArtifactError(
        _(
            "{damage} This artifact was not made here and is not used; remove it and download it again, or take the originals.",
            damage=damage,
        )
    )


def _fits(asked: Quantization, artifact: Artifact) -> bool:
    """Whether it has what is asked for: just these settings, or its own, where nobody asked for more than its bits."""
    content = artifact.manifest["content"]
    if content_settings(asked) == content:
        return True
    default = Quantization(weight_dtype=asked.weight_dtype, compute_dtype=asked.compute_dtype)
    usual = asked.weight_dtype in (Quantization.weight_dtype, "int8")
    return asked == default and usual and artifact.variant == f"int{asked.bits}"
