"""Which files of a model's repository are its data.

Only configuration, vocabulary and weights are ever read or downloaded, never
code. Weights that are published twice are taken once, as safetensors.
"""

from collections.abc import Iterable
from fnmatch import fnmatch

MANIFEST = "manifest.json"  # of an artifact (`pushed.py`): it is downloaded with the rest, and no part of a checkpoint
DESCRIPTIONS = (
    "config.json",
    "quantize_config.json",
    "quant_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "*.tiktoken",
    MANIFEST,
)
# In the order of preference.
WEIGHTS = (
    ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
    ("*.safetensors", "*.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json"),
)
NOT_WEIGHTS = ("adapter_model*", "consolidated*", "training_args*")


def descriptions(names: Iterable[str]) -> list[str]:
    """Those of `names` that hold configuration or vocabulary."""
    return sorted(name for name in names if _matches(name, DESCRIPTIONS))


def weights(names: Iterable[str]) -> list[str]:
    """Those of `names` that hold the weights, with their index; empty if there are none."""
    names = [name for name in names if not _matches(name, NOT_WEIGHTS)]
    for patterns in WEIGHTS:
        chosen = sorted(name for name in names if _matches(name, patterns))
        if any(not name.endswith(".json") for name in chosen):
            return chosen
    return []


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return "/" not in name and any(fnmatch(name, pattern) for pattern in patterns)
