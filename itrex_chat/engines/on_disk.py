"""What is on this machine's disk of a model: from its checkpoint, or from an artifact of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from itrex_chat.architecture.config import DecoderConfig
from itrex_chat.architecture.layout import TensorSpec
from itrex_chat.artifacts.artifact import Artifact
from itrex_chat.artifacts.obtaining import verified
from itrex_chat.chat import load_tokenizer
from itrex_chat.jobs.event import OriginalFiles
from itrex_chat.settings.recipe import Recipe
from itrex_chat.sources import Source, digest_of

if TYPE_CHECKING:
    from itrex_chat.chat.confined import ConfinedTokenizer
    from itrex_chat.checkpoints import Checkpoint

# Descriptions of checkpoints (`Checkpoint.description`) whose matrices lie in their files as they are in memory.
AS_THEY_ARE = {
    **dict.fromkeys(("float32", "GGUF F32"), torch.float32),
    **dict.fromkeys(("float16", "GGUF F16"), torch.float16),
    **dict.fromkeys(("bfloat16", "GGUF BF16"), torch.bfloat16),
}


@dataclass(frozen=True)
class OnDisk:
    """Where a variant's weights and tokenizer are. One of `checkpoint` and `artifact` is given; neither, where only
    another engine can read the model, whose files have `unread_bytes`."""

    checkpoint: "Checkpoint | None" = None
    artifact: Artifact | None = None
    unread_bytes: int = 0

    @property
    def decoder(self) -> DecoderConfig | None:
        found = self.checkpoint or self.artifact
        return found.decoder if found else None

    def stored(self, spec: TensorSpec) -> tuple[torch.dtype, bool]:
        """What holds a tensor's values exactly as the originals have them, and whether they lie in a file as that; by an
        artifact, what is so with most of them."""
        if self.checkpoint:
            return self.checkpoint.stored(spec.name), self.checkpoint.place(spec) is not None
        dtype = AS_THEY_ARE.get(self.artifact.manifest["source"]["stored"]) if self.artifact else None
        return dtype or torch.float32, dtype is not None

    def files(self, home: Path | None = None) -> OriginalFiles:
        """Which files the model is of."""
        if self.checkpoint:
            return files_of(self.checkpoint.source, home)
        return OriginalFiles(digest_of(self.artifact.manifest["source"]["files"])) if self.artifact else OriginalFiles()

    def tokenizer(self, recipe: Recipe) -> "ConfinedTokenizer":
        """Raises TokenizerError."""
        if self.artifact:
            return load_tokenizer(self.artifact.folder, self.artifact.family, recipe.chat)
        assert self.checkpoint is not None
        source = self.checkpoint.source
        gguf = source.weights[0] if source.format == "gguf" else None
        return load_tokenizer(source.folder, self.checkpoint.family, recipe.chat, gguf)


def files_of(source: Source, home: Path | None = None) -> OriginalFiles:
    return OriginalFiles(source.known_digest(home), source.stamp())


def of_checkpoint(recipe: Recipe, home: Path | None = None) -> OnDisk:
    """A recipe's originals, downloaded if need be. Raises SourceError, CheckpointError."""
    from itrex_chat import sources
    from itrex_chat.checkpoints import open_checkpoint

    return OnDisk(checkpoint=open_checkpoint(sources.resolve(recipe, home)))


def of_artifact(recipe: Recipe, home: Path | None = None, trusted: dict[str, str] | None = None) -> OnDisk:
    """A recipe's artifact, quantized if need be and with all digests checked, unless `trusted` vouches for it."""
    return OnDisk(artifact=verified(recipe, home, trusted))
