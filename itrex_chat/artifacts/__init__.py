"""Artifacts: quantized models in the cache.

An artifact is a folder that other programs can load as well (GPTQ layout in
safetensors, `config.json`, tokenizer) with a `manifest.json` that is written
last and holds the size and SHA-256 of everything. `obtain` is the way in.
"""

from itrex_chat.artifacts.artifact import Artifact
from itrex_chat.artifacts.obtaining import obtain
from itrex_chat.artifacts.store import ArtifactStore

__all__ = ["Artifact", "ArtifactStore", "obtain"]
