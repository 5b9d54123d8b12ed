"""A tiny GGUF file made of a transformers folder, as llama.cpp's converter would."""

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from itrex_chat.checkpoints.gguf import MODULES


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp keeps the two halves of a llama head interleaved."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write(
    folder: Path,
    path: Path,
    quantized: gguf.GGMLQuantizationType | None = None,
    template: str | None = None,
    rope_factors: np.ndarray | None = None,
    vectors: bool = False,
) -> Path:
    """Convert `folder` (llama or qwen2), matrices to `quantized` where it is given, `vectors` too if that is wanted."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    kind = config["model_type"]
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    _add_vocabulary(writer, folder, config["vocab_size"], template)
    for name, tensor in load_file(folder / "model.safetensors").items():
        _add_tensor(writer, kind, config, name, tensor, quantized if vectors or tensor.ndim == 2 else None)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer, folder: Path, size: int, template: str | None) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    tokens = [tokenizer.id_to_token(number) or f"[PAD{number}]" for number in range(size)]
    control = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    kinds = [
        3 if token in control else 4 if token == "<think>" else 5 if token.startswith("[PAD") else 1 for token in tokens
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in content["model"]["merges"]])
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    writer.add_chat_template(template or settings["chat_template"])


def _add_tensor(writer, kind: str, config: dict, name: str, tensor: np.ndarray, quantized) -> None:
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "lm_head.weight": "output.weight",
        "model.norm.weight": "output_norm.weight",
    }
    target = whole.get(name)
    if target is None:
        _model, _layers, block, *module, ending = name.split(".")
        module = ".".join(module)
        target = f"blk.{block}.{MODULES[module]}.{ending}"
        if kind == "llama" and module in ("self_attn.q_proj", "self_attn.k_proj"):
            heads = config["num_attention_heads" if module.endswith("q_proj") else "num_key_value_heads"]
            tensor = permuted(tensor, heads)
    if quantized is not None:
        writer.add_tensor(target, gguf.quantize(np.ascontiguousarray(tensor), quantized), raw_dtype=quantized)
    else:
        writer.add_tensor(target, np.ascontiguousarray(tensor))
