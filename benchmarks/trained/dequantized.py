"""An artifact's weights as floats in a folder that transformers reads, so that another program can measure them, too."""

import json
from pathlib import Path

from safetensors.torch import save_file

from itrex_chat.architecture.layout import HEAD
from itrex_chat.artifacts.artifact import Artifact
from itrex_chat.artifacts.obtaining import obtain
from itrex_chat.checkpoints import Checkpoint, open_checkpoint
from itrex_chat.quantization.tensor import QuantizedTensor
from itrex_chat.settings.recipe import Recipe
from itrex_chat.sources import resolve


def write(recipe: Recipe, folder: Path) -> Artifact:
    """The artifact of a recipe, and its weights in float32: the head apart from the embedding, for it has other bits."""
    artifact = obtain(recipe).artifact
    checkpoint = open_checkpoint(resolve(recipe))
    values = {}
    for spec in checkpoint.specs():
        name = spec.name.removesuffix(".weight")
        if name in artifact.manifest["matrices"]:
            matrix = artifact.matrix(name)
            assert isinstance(matrix, QuantizedTensor)
            values[spec.name] = matrix.dequantize()
        else:
            values[spec.name] = artifact.tensor(spec.name).float()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
    config = _config(checkpoint) | {"tie_word_embeddings": HEAD not in values, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    return artifact


def _config(checkpoint: Checkpoint) -> dict:
    return dict(checkpoint.config)
