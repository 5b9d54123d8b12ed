"""ChatGLM3, Qwen and Baichuan2 under their transformers names.

Each of the three is a decoder that transformers defines, stored under other
names: a family turns the original `config.json` into that architecture's and
says for each of its tensors where the original keeps it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from itrex_chat.architecture.config import ARCHITECTURES, DecoderConfig, unknown_architecture
from itrex_chat.architecture.layout import EMBEDDING, HEAD
from itrex_chat.foundation.errors import UnknownArchitecture
from itrex_chat.foundation.language import _


@dataclass(frozen=True)
class Origin:
    """Where a tensor is stored: its rows are those of `tensor` from `first_row` on.

    `transform`: "" for none; "normalized" divides each row by its L2 norm;
    "unpermuted:H" undoes llama.cpp's reordering of the rows of H heads.
    """

    tensor: str
    first_row: int = 0
    transform: str = ""


@dataclass(frozen=True)
class Family:
    """How a model is stored and how one talks to it (`chat/`)."""

    name: str
    transformers_config: Callable[[dict], dict]
    origin: Callable[[str, DecoderConfig], Origin]


def family_of(config: dict) -> Family:
    """The family of a `config.json`. Raises CheckpointError for one that is not known."""
    kind = config.get("model_type")
    if kind in ORIGINALS:
        return ORIGINALS[kind]
    if kind in ARCHITECTURES:
        return Family(kind, dict, lambda name, decoder: Origin(name))
    raise unknown_architecture(kind or (config.get("architectures") or ["?"])[0])


def _chatglm3_config(config: dict) -> dict:
    expected = {
        "rmsnorm": True,
        "post_layer_norm": True,
        "add_bias_linear": False,
        "multi_query_attention": True,
        "apply_residual_connection_post_layernorm": False,
        "original_rope": True,
    }
    _require(
        "ChatGLM3",
        config,
        (
            "ffn_hidden_size",
            "padded_vocab_size",
            "kv_channels",
            "hidden_size",
            "num_layers",
            "num_attention_heads",
            "multi_query_group_num",
            "layernorm_epsilon",
            "seq_length",
        ),
        expected,
    )
    if config["padded_vocab_size"] != 65024 or "chatglm2" in str(config.get("_name_or_path", "")).lower():
        raise UnknownArchitecture(
            _(
                "This is another model with ChatGLM's layout (vocabulary {size}); of those only "
                "ChatGLM3-6B is supported.",
                size=config["padded_vocab_size"],
            )
        )
    return {
        "model_type": "glm",
        "architectures": ["GlmForCausalLM"],
        "vocab_size": config["padded_vocab_size"],
        "hidden_size": config["hidden_size"],
        "intermediate_size": config["ffn_hidden_size"],
        "num_hidden_layers": config["num_layers"],
        "num_attention_heads": config["num_attention_heads"],
        "num_key_value_heads": config["multi_query_group_num"],
        "head_dim": config["kv_channels"],
        "rms_norm_eps": config["layernorm_epsilon"],
        "max_position_embeddings": config["seq_length"],
        "attention_bias": config.get("add_qkv_bias", True),
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0 * config.get("rope_ratio", 1),
            "partial_rotary_factor": 0.5,
        },
        "eos_token_id": config.get("eos_token_id", 2),
        "pad_token_id": config.get("pad_token_id", 0),
        "bos_token_id": None,
    }


def _chatglm3_origin(name: str, decoder: DecoderConfig) -> Origin:
    queries, keys = decoder.heads * decoder.head_dim, decoder.kv_heads * decoder.head_dim
    block, part = _split(name)
    return _found(
        name,
        {
            EMBEDDING: Origin("transformer.embedding.word_embeddings.weight"),
            HEAD: Origin("transformer.output_layer.weight"),
            "model.norm.weight": Origin("transformer.encoder.final_layernorm.weight"),
        },
        f"transformer.encoder.layers.{block}.",
        part,
        {
            "self_attn.q_proj": ("self_attention.query_key_value", 0),
            "self_attn.k_proj": ("self_attention.query_key_value", queries),
            "self_attn.v_proj": ("self_attention.query_key_value", queries + keys),
            "self_attn.o_proj": ("self_attention.dense", 0),
            "mlp.gate_up_proj": ("mlp.dense_h_to_4h", 0),
            "mlp.down_proj": ("mlp.dense_4h_to_h", 0),
            "input_layernorm": ("input_layernorm", 0),
            "post_attention_layernorm": ("post_attention_layernorm", 0),
        },
    )


def _qwen_config(config: dict) -> dict:
    older = {
        "n_layer": "num_hidden_layers",
        "n_embd": "hidden_size",
        "n_head": "num_attention_heads",
        "padded_vocab_size": "vocab_size",
        "ffn_hidden_size": "intermediate_size",
        "n_positions": "max_position_embeddings",
    }
    config = {older.get(key, key): value for key, value in config.items() if older.get(key, key) not in config} | config
    _require(
        "Qwen",
        config,
        ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "seq_length"),
        {"no_bias": True, "rotary_pct": 1.0, "scale_attn_weights": True},
    )
    head_dim = config.get("kv_channels", config["hidden_size"] // config["num_attention_heads"])
    return {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": config["vocab_size"],
        "hidden_size": config["hidden_size"],
        "intermediate_size": config["intermediate_size"] // 2,
        "num_hidden_layers": config["num_hidden_layers"],
        "num_attention_heads": config["num_attention_heads"],
        "num_key_value_heads": config["num_attention_heads"],
        "head_dim": head_dim,
        "rms_norm_eps": config.get("layer_norm_epsilon", 1e-6),
        "max_position_embeddings": max(config.get("max_position_embeddings", 0), config["seq_length"]),
        "hidden_act": "silu",
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(config.get("rotary_emb_base", 10000))},
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "pad_token_id": 151643,
        # Not part of Qwen2: read by decoder/config.py, ignored by other programs.
        "seq_length": config["seq_length"],
        "use_dynamic_ntk": bool(config.get("use_dynamic_ntk", False)),
        "use_logn_attn": bool(config.get("use_logn_attn", False)),
    }


def _qwen_origin(name: str, decoder: DecoderConfig) -> Origin:
    rows = decoder.heads * decoder.head_dim
    block, part = _split(name)
    return _found(
        name,
        {
            EMBEDDING: Origin("transformer.wte.weight"),
            HEAD: Origin("lm_head.weight"),
            "model.norm.weight": Origin("transformer.ln_f.weight"),
        },
        f"transformer.h.{block}.",
        part,
        {
            "self_attn.q_proj": ("attn.c_attn", 0),
            "self_attn.k_proj": ("attn.c_attn", rows),
            "self_attn.v_proj": ("attn.c_attn", 2 * rows),
            "self_attn.o_proj": ("attn.c_proj", 0),
            "mlp.gate_proj": ("mlp.w2", 0),  # w2 goes through SiLU
            "mlp.up_proj": ("mlp.w1", 0),
            "mlp.down_proj": ("mlp.c_proj", 0),
            "input_layernorm": ("ln_1", 0),
            "post_attention_layernorm": ("ln_2", 0),
        },
    )


def _baichuan2_config(config: dict) -> dict:
    _require(
        "Baichuan2",
        config,
        ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "rms_norm_eps"),
        {"hidden_act": "silu"},
    )
    if config["hidden_size"] == 5120 or "max_position_embeddings" not in config:
        raise UnknownArchitecture(
            _(
                "Baichuan2-13B is another architecture (ALiBi instead of rotary positions) and is not "
                "supported; Baichuan2-7B is."
            )
        )
    if config["vocab_size"] != 125696:
        raise UnknownArchitecture(
            _(
                "This is the first Baichuan (vocabulary {size}); only Baichuan2-7B is supported.",
                size=config["vocab_size"],
            )
        )
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": config["vocab_size"],
        "hidden_size": config["hidden_size"],
        "intermediate_size": config["intermediate_size"],
        "num_hidden_layers": config["num_hidden_layers"],
        "num_attention_heads": config["num_attention_heads"],
        "num_key_value_heads": config["num_attention_heads"],
        "rms_norm_eps": config["rms_norm_eps"],
        "max_position_embeddings": config["max_position_embeddings"],
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def _baichuan2_origin(name: str, decoder: DecoderConfig) -> Origin:
    block, part = _split(name)
    if name == HEAD:
        return Origin(HEAD, transform="normalized")
    packed = {"q_proj": 0, "k_proj": decoder.hidden_size, "v_proj": 2 * decoder.hidden_size}
    module = part.removeprefix("self_attn.").removesuffix(".weight")
    if module in packed:
        return Origin(f"model.layers.{block}.self_attn.W_pack.weight", packed[module])
    return Origin(name)


def _split(name: str) -> tuple[str, str]:
    """ "model.layers.3.mlp.up_proj.weight" to ("3", "mlp.up_proj.weight"); ("", name) outside of the blocks."""
    if not name.startswith("model.layers."):
        return "", name
    block, _dot, part = name.removeprefix("model.layers.").partition(".")
    return block, part


def _found(name: str, whole: dict[str, Origin], prefix: str, part: str, parts: dict[str, tuple[str, int]]) -> Origin:
    if name in whole:
        return whole[name]
    module, _dot, kind = part.rpartition(".")
    original, first_row = parts[module]
    return Origin(f"{prefix}{original}.{kind}", first_row)


def _require(family: str, config: dict, keys: tuple[str, ...], expected: dict) -> None:
    """Refuse a configuration that lacks a key or has a flag set that changes the architecture."""
    for key in keys:
        if not isinstance(config.get(key), (int, float)) or isinstance(config[key], bool):
            raise UnknownArchitecture(
                _("config.json does not look like {family}: it has no {key}.", family=family, key=key)
            )
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise UnknownArchitecture(
                _(
                    "config.json: {key} is {found!r}; only {value!r} is supported for {family}.",
                    key=key,
                    found=config[key],
                    value=value,
                    family=family,
                )
            )


ORIGINALS = {
    "chatglm": Family("chatglm3", _chatglm3_config, _chatglm3_origin),
    "qwen": Family("qwen", _qwen_config, _qwen_origin),
    "baichuan": Family("baichuan2", _baichuan2_config, _baichuan2_origin),
}
