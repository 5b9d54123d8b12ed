"""Folders with `config.json`, weights and a vocabulary: changed in one or two places, or made of sizes that fit together."""

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import tiny_models
import torch
from safetensors.torch import save_file

from fuzzed import pickles, vocabularies
from fuzzed.asking import asker
from fuzzed.binary import odd_safetensors
from fuzzed.case import Case, linked, written
from fuzzed.values import as_json, damaged, mutated, plain
from itrex_chat.architecture.config import from_transformers
from itrex_chat.architecture.layout import HEAD, tensors
from itrex_chat.foundation.errors import CheckpointError

PACKED = ("gptq", "awq", "compressed-tensors")
LAYOUTS = ("llama", "mistral", "qwen2", "qwen3", "glm", "glm4", "qwen", "shards", "pickle", "pickles", "older", *PACKED)
LARGE = ("chatglm3", "baichuan2")  # take longer
KINDS = ("llama", "mistral", "qwen2", "qwen3", "glm", "glm4")
CONFIG = "config.json"


def make(random: Random, folder: Path, seeds: Path) -> Case:
    if random.random() < 0.35:
        return _consistent(random, folder, seeds)
    name = random.choice(LAYOUTS) if random.random() < 0.9 else random.choice(LARGE)
    model, done = linked(seeds / "checkpoints" / name, folder / "model"), []
    for _time in range(random.choice((1, 1, 1, 2))):
        change = random.choices(list(CHANGES), list(CHANGES.values()))[0]
        done.append(change(random, model))
    return Case(f"{name}: {', '.join(done)}", asker(random, model))


def _config(random: Random, model: Path) -> str:
    if not (model / CONFIG).is_file():
        return "no config.json"
    content = mutated(plain((model / CONFIG).read_bytes()), random)
    written(model / CONFIG, as_json(content, random, 0.05))
    return CONFIG


def _weights(random: Random, model: Path) -> str:
    """A weight file that says other things than it did."""
    files = sorted([*model.glob("*.safetensors"), *model.glob("*.bin")])
    if not files:
        return "no weights"
    file = random.choice(files)
    odd = odd_safetensors if file.suffix == ".safetensors" else pickles.odd
    written(file, odd(file.read_bytes(), random))
    return file.name


def _index(random: Random, model: Path) -> str:
    file = next(iter(sorted(model.glob("*.index.json"))), model / "model.safetensors.index.json")
    homes = dict.fromkeys(("model.norm.weight", "lm_head.weight"), "model.safetensors")
    content = plain(file.read_bytes()) if file.is_file() else {"metadata": {}, "weight_map": homes}
    written(file, as_json(mutated(content, random), random))
    return file.name


def _bytes(random: Random, model: Path) -> str:
    file = random.choice(sorted(path for path in model.iterdir() if path.is_file()))
    written(file, damaged(file.read_bytes(), random))
    return f"bytes of {file.name}"


def _files(random: Random, model: Path) -> str:
    """A file that is gone, empty, another kind of thing, or there under a second name."""
    file = random.choice(sorted(path for path in model.iterdir() if path.is_file()))
    content, how = file.read_bytes(), random.randrange(7)
    file.unlink()
    if how == 0:
        file.write_bytes(b"")
    elif how == 1:
        file.mkdir()
    elif how == 2:
        file.symlink_to(file)
    elif how == 3:
        os.mkfifo(file)
    elif how == 4:
        for name in (file.name, random.choice(("model-00003-of-00002.safetensors", "model.gguf", "pytorch_model.bin"))):
            written(model / name, content)
    elif how == 5:
        file.with_name(random.choice(("模型.safetensors", "a\x1b[31m.safetensors", file.name + ".old"))).write_bytes(
            content
        )
    return f"{file.name} {('empty', 'a folder', 'a loop', 'a pipe', 'twice', 'renamed', 'gone')[how]}"


def _vocabulary(random: Random, model: Path) -> str:
    return vocabularies.change(random, model)


CHANGES: dict[Callable[[Random, Path], str], float] = {
    _config: 8,
    _weights: 6,
    _index: 1,
    _bytes: 2,
    _files: 1,
    _vocabulary: 6,
}


def _consistent(random: Random, folder: Path, seeds: Path) -> Case:
    config = consistent(random, folder / "model", seeds)
    return Case(f"{config}", asker(random, folder / "model"))


def consistent(random: Random, model: Path, seeds: Path, kinds: tuple[str, ...] = KINDS, plain: bool = False) -> dict:
    """Make a model of sizes and settings that nobody has, whose tensors fit them: it is to be answered from.

    Its configuration. `plain`: all tensors are float32 and no larger than usual.
    """
    linked(seeds / "checkpoints" / "llama" / "tokenizer.json", model / "tokenizer.json")
    linked(seeds / "checkpoints" / "llama" / "tokenizer_config.json", model / "tokenizer_config.json")
    decoder = None
    while decoder is None:
        config = sizes(random, random.choice(kinds))
        try:
            decoder = from_transformers(config)
        except CheckpointError:
            continue
    tiny_models.described(model, config)
    generator = torch.Generator().manual_seed(random.randrange(1 << 32))
    dtypes = random.choice(((torch.float32,), (torch.float16,), (torch.bfloat16,), (torch.float32, torch.bfloat16)))
    scale, found = random.choice((0.2, 0.2, 0.2, 0.0, 1e-30, 50.0, 1e4, 1e18)), {}
    for spec in tensors(decoder):
        if spec.name != HEAD or not decoder.tied_head:
            values = torch.randn(spec.shape, generator=generator) * (0.2 if plain else scale) + (spec.role == "vector")
            found[spec.name] = values if plain else values.to(random.choice(dtypes))
    save_file(found, model / "model.safetensors")
    return config


def sizes(random: Random, kind: str) -> dict:
    """A `config.json` of sizes that fit together, most of them."""
    kv_heads = random.choice((1, 1, 2, 3))
    head_dim = random.choice((2, 4, 6, 10, 16, 16, 32, 34, 40, 64))
    layers = random.randint(1, 3)
    hidden = random.choice((32, 64, 96, 128, random.randint(1, 100)))
    config = tiny_models.NATIVE | {
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": random.choice((32, 64, 96, 128, random.randint(1, 130))),
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "num_attention_heads": kv_heads * random.choice((1, 2, 3, 5)),
        "head_dim": head_dim,
        "vocab_size": random.choice((640, 641, 655, random.randint(610, 700))),
        "max_position_embeddings": random.choice((64, 300, 2048, 2048)),
        "rms_norm_eps": random.choice((1e-6, 1e-5, 1.0, 0.0, 1e-30)),
        "tie_word_embeddings": random.random() < 0.3,
        "attention_bias": random.random() < 0.3,
        "mlp_bias": random.random() < 0.2,
        "rope_parameters": _rope(random, head_dim),
    }
    if random.random() < 0.4:
        config["sliding_window"] = random.choice((1, 2, 7, 16, 300, 1 << 30))
        if kind in ("qwen2", "qwen3"):
            config |= {"use_sliding_window": True, "max_window_layers": random.randint(0, layers)}
        if random.random() < 0.5:
            config["layer_types"] = random.choices(("full_attention", "sliding_attention"), k=layers)
    return config


def _rope(random: Random, head_dim: int) -> dict:
    kind = random.choice(("default", "default", "default", "linear", "dynamic", "llama3", "yarn"))
    found = {
        "rope_type": kind,
        "rope_theta": random.choice((1e4, 1e6, 5e5, 2.0, 1.0, 1e15, 1e-15)),
        "partial_rotary_factor": random.choice((1.0, 1.0, 0.5, 2 / head_dim)),
    }
    if kind != "default":
        found |= {"factor": random.choice((2.0, 1.0, 8, 1e6, 1e-6)), "original_max_position_embeddings": 16}
    if kind == "llama3":
        found |= {"low_freq_factor": random.choice((1.0, 4.0)), "high_freq_factor": random.choice((4.0, 1.0))}
    if kind == "yarn":
        found |= random.choice(({}, {"beta_fast": 32, "beta_slow": 1}, {"mscale": 0.7, "mscale_all_dim": 1.0}))
    return found
