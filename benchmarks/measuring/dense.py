"""A model as a folder that transformers and every peer's converter read: float16 safetensors under transformers' names.

    python -m measuring.dense MODEL FOLDER         from anything this program reads
    python -m measuring.dense --shape NAME FOLDER  random weights in the shape of a known model

Run as a process of its own, so that its memory does not count elsewhere.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

SHARD = 2 << 30  # bytes
ROTARY = {"rope_type": "default", "rope_theta": 10000.0}
# Sizes of the published models in the architecture that all peers can take; ChatGLM3 differs in nothing that costs time.
SHAPES = {
    "chatglm3-6b-shape": {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 13696,
        "num_hidden_layers": 28,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "vocab_size": 65024,
    },
    "qwen-7b-shape": {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 151936,
    },
    "llama-1.1b-shape": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
    },
}
COMMON = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "rope_parameters": ROTARY,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def write_model(model: str, folder: Path) -> None:
    """A copy of what the project's checkpoint reader reads."""
    from itrex_chat import sources
    from itrex_chat.chat import load_tokenizer
    from itrex_chat.checkpoints import open_checkpoint
    from itrex_chat.settings import recipe as recipes

    recipe = recipes.load(model)
    source = sources.resolve(recipe)
    checkpoint = open_checkpoint(source)
    gguf = source.weights[0] if source.format == "gguf" else None
    tokenizer = load_tokenizer(source.folder, checkpoint.family, recipe.chat, gguf)
    tied = checkpoint.decoder.tied_head
    specs = [spec for spec in checkpoint.specs() if not (tied and spec.role == "head")]
    _write(folder, checkpoint.config, ((spec.name, checkpoint.tensor(spec)) for spec in specs), tokenizer.files())


def write_shape(name: str, folder: Path) -> None:
    """Random weights, normal with deviation 0.02, norms one, and a tokenizer of single bytes."""
    import torch

    from itrex_chat.architecture.config import from_transformers
    from itrex_chat.architecture.layout import tensors

    config = COMMON | SHAPES[name]
    generator = torch.Generator().manual_seed(0)

    def weights() -> Iterator:
        for spec in tensors(from_transformers(config)):
            if spec.role == "vector":
                yield spec.name, (torch.ones if "norm" in spec.name else torch.zeros)(spec.shape)
            else:
                yield spec.name, torch.empty(spec.shape).normal_(0, 0.02, generator=generator)

    _write(folder, config, weights(), _byte_tokenizer())


def _write(folder: Path, config: dict, tensors: Iterator, tokenizer: dict[str, bytes]) -> None:
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    homes: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    number = 0

    def finish() -> None:
        nonlocal shard, number
        number += 1
        name = f"model-{number:05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        homes.update(dict.fromkeys(shard, name))
        shard = {}

    for name, tensor in tensors:
        shard[name] = tensor.to(torch.float16).contiguous()
        if sum(tensor.nbytes for tensor in shard.values()) >= SHARD:
            finish()
    finish()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": homes}), "utf-8")
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16"}, indent=2), "utf-8")
    for name, content in tokenizer.items():
        (folder / name).write_bytes(content)


def _byte_tokenizer() -> dict[str, bytes]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|end|>": 0} | {piece: number for number, piece in enumerate(alphabet, 1)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    template = "{% for message in messages %}{{ message['content'] }}<|end|>{% endfor %}"
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "chat_template": template}
    return {"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": json.dumps(settings).encode()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="store_true")
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    (write_shape if given.shape else write_model)(given.model, given.folder)
