"""GGUF files: llama.cpp's metadata and tensor names under transformers' names.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Weights that
were quantized are dequantized as they are read.
"""

from typing import Any

import torch

from itrex_chat.architecture import bounds
from itrex_chat.architecture.config import ARCHITECTURES, DecoderConfig
from itrex_chat.architecture.layout import EMBEDDING, HEAD
from itrex_chat.checkpoints.families import Family, Origin
from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.foundation.language import _

KNOWN = ("llama", "qwen2", "qwen3", "glm4")
MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "post_self_attn_layernorm": "post_attention_norm",
    "post_mlp_layernorm": "post_ffw_norm",
}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def family(metadata: dict) -> Family:
    """The family of a GGUF file. Raises CheckpointError for an architecture that is not known."""
    kind = metadata["general.architecture"]
    if kind not in KNOWN:
        raise CheckpointError(
            _("The GGUF architecture {name} is not supported. Known: {known}.", name=kind, known=", ".join(KNOWN))
        )
    return Family(kind, lambda config: config, _origin)


def transformers_config(metadata: dict, shapes: dict[str, tuple[int, ...]]) -> dict:
    """The `config.json` of the transformers architecture that the file holds. Raises CheckpointError."""
    kind = metadata["general.architecture"]

    def value(key: str, default: Any = None) -> Any:
        found = metadata.get(f"{kind}.{key}", default)
        if found is None:
            raise CheckpointError(_("The GGUF file has no {key} in its metadata.", key=f"{kind}.{key}"))
        return found

    def size(key: str, default: int | None = None) -> int:
        """One number: models whose layers differ have a list."""
        found = value(key, default)
        bounds.whole(f"{kind}.{key}", found)
        return found

    heads, hidden = size("attention.head_count"), size("embedding_length")
    head_dim = size("attention.key_length", metadata.get(f"{kind}.rope.dimension_count", hidden // heads))
    if kind == "glm4" and f"{kind}.attention.key_length" not in metadata:
        head_dim = hidden // heads
    bounds.whole("head_dim", head_dim)
    rotary_dims = size("rope.dimension_count", head_dim)
    return {
        "model_type": kind,
        "architectures": [ARCHITECTURES[kind]],
        "vocab_size": (*shapes.get("token_embd.weight", ()), 0)[0],
        "hidden_size": hidden,
        "intermediate_size": size("feed_forward_length"),
        "num_hidden_layers": size("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": size("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": size("context_length"),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in shapes,
        "attention_bias": "blk.0.attn_q.bias" in shapes,
        "rope_parameters": {
            "rope_theta": value("rope.freq_base", 10000.0),
            "partial_rotary_factor": rotary_dims / head_dim,
            **_scaling(kind, metadata, shapes),
        },
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
    }


def llama3_scaling(factors: torch.Tensor) -> dict:
    """The Llama 3 scaling whose per-pair divisors are the file's `rope_freqs.weight` (the largest is the factor)."""
    return LLAMA3_SCALING | {"factor": float(factors.max())}


def _scaling(kind: str, metadata: dict, shapes: dict) -> dict:
    if "rope_freqs.weight" in shapes:
        return {"rope_type": "llama3"}  # its factor is in the tensor: Checkpoint fills it in
    scaling = metadata.get(f"{kind}.rope.scaling.type", "none")
    if scaling == "none":
        return {"rope_type": "default"}
    settings = {"rope_type": scaling, "factor": metadata.get(f"{kind}.rope.scaling.factor", 1.0)}
    if original := metadata.get(f"{kind}.rope.scaling.original_context_length"):
        settings["original_max_position_embeddings"] = original
    return settings


def _origin(name: str, decoder: DecoderConfig) -> Origin:
    whole = {EMBEDDING: "token_embd.weight", HEAD: "output.weight", "model.norm.weight": "output_norm.weight"}
    if name in whole:
        return Origin(whole[name])
    block, _dot, part = name.removeprefix("model.layers.").partition(".")
    module, _dot, kind = part.rpartition(".")
    transform = ""
    if decoder.architecture in ("llama", "mistral") and module in ("self_attn.q_proj", "self_attn.k_proj"):
        heads = decoder.heads if module.endswith("q_proj") else decoder.kv_heads
        transform = f"unpermuted:{heads}"
    return Origin(f"blk.{block}.{MODULES[module]}.{kind}", transform=transform)
