"""What a decoder is made of: one configuration for all families.

It is read from the `config.json` of an architecture that transformers defines
(llama, mistral, qwen2, qwen3, glm, glm4); the original ChatGLM3, Qwen and
Baichuan2 configurations are turned into such a one before (`checkpoints/`).
"""

from dataclasses import dataclass

import torch

from itrex_chat.foundation.errors import CheckpointError, UnknownArchitecture
from itrex_chat.foundation.language import _

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "glm": "GlmForCausalLM",
    "glm4": "Glm4ForCausalLM",
}
ROPE_TYPES = ("default", "linear", "llama3", "yarn", "dynamic")


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding (RoFormer, arXiv:2104.09864).

    Rotates the first `dims` channels of a head, in pairs (0,1), (2,3), … if
    `interleaved`, else (0, dims/2), …. `inverse_frequencies` has dims/2
    values; cosine and sine are multiplied by `attention_factor` (YaRN).
    `dynamic` is None, "qwen" (NTK by powers of two of the prefill's length)
    or "ntk" (transformers' dynamic NTK with `factor`).
    """

    dims: int
    base: float
    interleaved: bool
    inverse_frequencies: tuple[float, ...]
    attention_factor: float = 1.0
    dynamic: str | None = None
    factor: float = 1.0


@dataclass(frozen=True)
class DecoderConfig:
    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    rotary: Rotary
    trained_length: int  # tokens; beyond it the model was not trained
    context_length: int  # tokens; the most it takes
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False  # RMSNorm over each head of Q and K (Qwen3)
    sandwich_norms: bool = False  # a norm after attention and MLP too (GLM-4-0414)
    fused_mlp: bool = False  # gate and up are stored as one matrix
    tied_head: bool = False
    log_n_attention: bool = False  # queries past the trained length scaled by log(i)/log(trained) (Qwen)
    windows: tuple[int | None, ...] = ()  # sliding window of each layer; None attends to everything

    def window(self, layer: int) -> int | None:
        return self.windows[layer] if self.windows else None


def from_transformers(config: dict) -> DecoderConfig:
    """The decoder that a transformers `config.json` describes.

    Raises CheckpointError naming the architecture or the value that is not
    supported.
    """
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise unknown_architecture(kind)
    native = _transformers_config(kind, config)
    _check_sizes(native)
    if native.hidden_act != "silu":
        raise CheckpointError(_("The activation {name} is not supported; only silu is.", name=native.hidden_act))
    head_dim = getattr(native, "head_dim", None) or native.hidden_size // native.num_attention_heads
    windows = _windows(native)
    return DecoderConfig(
        architecture=kind,
        vocab_size=native.vocab_size,
        hidden_size=native.hidden_size,
        intermediate_size=native.intermediate_size,
        layers=native.num_hidden_layers,
        heads=native.num_attention_heads,
        kv_heads=native.num_key_value_heads or native.num_attention_heads,
        head_dim=head_dim,
        norm_eps=native.rms_norm_eps,
        rotary=_rotary(
            native, head_dim, interleaved=kind in ("glm", "glm4"), qwen=config.get("use_dynamic_ntk", False)
        ),
        trained_length=config.get("seq_length", native.max_position_embeddings),
        context_length=native.max_position_embeddings,
        qkv_bias=kind == "qwen2" or bool(getattr(native, "attention_bias", False)),
        output_bias=kind in ("llama", "qwen3") and bool(getattr(native, "attention_bias", False)),
        mlp_bias=kind == "llama" and bool(native.mlp_bias),
        qk_norm=kind == "qwen3",
        sandwich_norms=kind == "glm4",
        fused_mlp=kind in ("glm", "glm4"),
        tied_head=bool(native.tie_word_embeddings),
        log_n_attention=bool(config.get("use_logn_attn", False)),
        windows=windows if any(windows) else (),
    )


def inverse_frequencies(base: float, dims: int) -> torch.Tensor:
    """Angle per position of each rotated pair: float32 [dims/2], computed in float32 as transformers does."""
    return 1.0 / base ** (torch.arange(0, dims, 2, dtype=torch.float32) / dims)


def unknown_architecture(kind) -> UnknownArchitecture:
    known = ("chatglm (ChatGLM3)", "qwen", "baichuan (Baichuan2-7B)", *ARCHITECTURES)
    return UnknownArchitecture(
        _("The architecture {name} is not supported. Known: {known}.", name=kind, known=", ".join(known))
    )


def _transformers_config(kind: str, config: dict):
    """transformers' own reading of the file: defaults, and old spellings of rotary settings."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    given = {
        key: value
        for key, value in config.items()
        if key not in ("auto_map", "quantization_config", "architectures", "_name_or_path")
    }
    try:
        return CONFIG_MAPPING[kind].from_dict(given)
    except Exception as error:  # its validators raise many types
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise CheckpointError(
            _("config.json does not fit the architecture {name}: {reason}.", name=kind, reason=reason)
        ) from None


def _check_sizes(native) -> None:
    sizes = {
        name: getattr(native, name)
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
        )
    }
    for name, value in sizes.items():
        if type(value) is not int or not 0 < value < 1 << 24:
            raise CheckpointError(_("config.json: {name} cannot be {value!r}.", name=name, value=value))
    kv_heads = native.num_key_value_heads or native.num_attention_heads
    if native.num_attention_heads % kv_heads or not (
        getattr(native, "head_dim", None) or native.hidden_size % native.num_attention_heads == 0
    ):
        raise CheckpointError(
            _(
                "config.json: the sizes do not fit: hidden_size must be a multiple of the attention heads, and these of "
                "the key and value heads."
            )
        )


def _rotary(native, head_dim: int, interleaved: bool, qwen: bool) -> Rotary:
    parameters = native.rope_parameters
    kind = parameters.get("rope_type", "default")
    if kind not in ROPE_TYPES:
        raise CheckpointError(
            _("The rotary scaling {name} is not supported. Known: {known}.", name=kind, known=", ".join(ROPE_TYPES))
        )
    dims = int(head_dim * parameters.get("partial_rotary_factor", 1.0))
    base = float(parameters["rope_theta"])
    if dims <= 0 or dims % 2 or base <= 0:
        raise CheckpointError(_("config.json: the rotary settings {settings} make no sense.", settings=parameters))
    frequencies, attention_factor = inverse_frequencies(base, dims), 1.0
    if kind in ("linear", "llama3", "yarn"):
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        frequencies, attention_factor = ROPE_INIT_FUNCTIONS[kind](native, device="cpu")
    dynamic = "qwen" if qwen else "ntk" if kind == "dynamic" else None
    return Rotary(
        dims,
        base,
        interleaved,
        tuple(frequencies.tolist()),
        float(attention_factor),
        dynamic,
        float(parameters.get("factor") or 1.0),
    )


def _windows(native) -> tuple[int | None, ...]:
    """The sliding window of each layer, by the layer types where the configuration has them."""
    window, types = getattr(native, "sliding_window", None), getattr(native, "layer_types", None)
    if not types:
        return (window,) * native.num_hidden_layers
    return tuple(window if kind == "sliding_attention" else None for kind in types)
