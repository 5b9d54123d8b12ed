"""What a decoder is made of: one configuration for all families.

It is read from the `config.json` of an architecture that transformers defines
(llama, mistral, qwen2, qwen3, glm, glm4); the original ChatGLM3, Qwen and
Baichuan2 configurations are turned into such a one before (`checkpoints/`).
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from itrex_chat.architecture import bounds
from itrex_chat.architecture.mlp import ACTIVATIONS, GatedMlpConfig
from itrex_chat.foundation.errors import CheckpointError, UnknownArchitecture
from itrex_chat.foundation.harmless import unheard
from itrex_chat.foundation.language import _

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "glm": "GlmForCausalLM",
    "glm4": "Glm4ForCausalLM",
}


@dataclass(frozen=True)
class Traits:
    """What an architecture fixes beside the numbers in its `config.json`.

    `qkv_bias`, `output_bias`, `mlp_bias`: True, or the key of `config.json` that says so, or False.
    """

    qkv_bias: bool | str = "attention_bias"
    output_bias: bool | str = False
    mlp_bias: bool | str = False
    qk_norm: bool = False
    sandwich_norms: bool = False
    fused_mlp: bool = False
    interleaved: bool = False


TRAITS = {
    "llama": Traits(output_bias="attention_bias", mlp_bias="mlp_bias"),
    "mistral": Traits(),
    "qwen2": Traits(qkv_bias=True),
    "qwen3": Traits(output_bias="attention_bias", qk_norm=True),
    "glm": Traits(fused_mlp=True, interleaved=True),
    "glm4": Traits(fused_mlp=True, interleaved=True, sandwich_norms=True),
}
ROPE_TYPES = ("default", "linear", "llama3", "yarn", "dynamic")
LAYER_TYPES = ("full_attention", "sliding_attention")
# The keys of a config.json that describe a decoder: transformers is shown no others, for it makes lists as long as they say,
# and other attributes' names, of some. ALWAYS count for every architecture, the others where it has them.
DESCRIBING = {
    *(
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    ),
    *("max_position_embeddings", "rms_norm_eps", "hidden_act", "mlp_bias", "tie_word_embeddings", "rope_parameters"),
    *("sliding_window", "use_sliding_window", "max_window_layers", "layer_types"),
}
ALWAYS = {
    *("model_type", "head_dim", "attention_bias"),
    *("rope_theta", "rope_scaling", "partial_rotary_factor", "original_max_position_embeddings"),
}


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

    def __post_init__(self) -> None:
        """Raise CheckpointError for a value that cannot be."""
        bounds.whole("rotary.dims", self.dims, least=2 if self.dynamic is None else 4)
        if self.dims % 2:
            raise bounds.refused("rotary.dims", self.dims)
        bounds.number("rotary.base", self.base, 1e15, 1e-15)
        bounds.flags(self, ("interleaved",))
        if not isinstance(self.inverse_frequencies, tuple) or len(self.inverse_frequencies) != self.dims // 2:
            raise bounds.refused("rotary.inverse_frequencies", self.inverse_frequencies)
        for frequency in self.inverse_frequencies:
            bounds.number("rotary.inverse_frequencies", frequency, 1e15)
        bounds.number("rotary.attention_factor", self.attention_factor, 1e6)
        bounds.one_of("rotary.dynamic", self.dynamic, (None, "qwen", "ntk"))
        bounds.number("rotary.factor", self.factor, 1e6, 1e-6)


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder in numbers. There is none whose values do not fit together: making it raises CheckpointError."""

    architecture: str
    vocab_size: int
    hidden_size: int
    mlp: GatedMlpConfig
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
    qk_norm: bool = False  # RMSNorm over each head of Q and K (Qwen3)
    sandwich_norms: bool = False  # a norm after attention and MLP too (GLM-4-0414)
    tied_head: bool = False
    log_n_attention: bool = False  # queries past the trained length scaled by log(i)/log(trained) (Qwen)
    windows: tuple[int | None, ...] = ()  # sliding window of each layer; None attends to everything

    def __post_init__(self) -> None:
        """Raise CheckpointError for a value that cannot be."""
        bounds.one_of("architecture", self.architecture, TRAITS)
        bounds.whole("layers", self.layers, bounds.LAYERS)
        for name in ("vocab_size", "hidden_size", "heads", "kv_heads", "head_dim", "trained_length", "context_length"):
            bounds.whole(name, getattr(self, name))
        bounds.whole("heads × head_dim", self.heads * self.head_dim)
        if self.heads % self.kv_heads:
            raise bounds.refused("kv_heads", self.kv_heads)
        bounds.number("norm_eps", self.norm_eps, 1.0)
        bounds.flags(self, ("qkv_bias", "output_bias", "qk_norm", "sandwich_norms", "tied_head", "log_n_attention"))
        if not isinstance(self.mlp, GatedMlpConfig) or not isinstance(self.rotary, Rotary):
            raise bounds.refused("mlp, rotary", (self.mlp, self.rotary))
        if self.rotary.dims > self.head_dim:
            raise bounds.refused("rotary.dims", self.rotary.dims)
        if self.log_n_attention and self.trained_length < 2:  # it is divided by its logarithm
            raise bounds.refused("trained_length", self.trained_length)
        if not isinstance(self.windows, tuple) or len(self.windows) not in (0, self.layers):
            raise bounds.refused("windows", self.windows)
        for window in self.windows:
            if window is not None:
                bounds.whole("windows", window, bounds.WINDOW)

    def window(self, layer: int) -> int | None:
        return self.windows[layer] if self.windows else None


@unheard("transformers")
def from_transformers(config: dict) -> DecoderConfig:
    """The decoder that a transformers `config.json` describes.

    Raises CheckpointError naming the architecture or the value that is not
    supported.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in TRAITS:
        raise unknown_architecture(kind)
    traits, theirs = TRAITS[kind], _transformers_config(kind, config)
    _check_sizes(theirs)
    if not isinstance(theirs.hidden_act, str) or theirs.hidden_act not in ACTIVATIONS:
        raise CheckpointError(
            _(
                "The activation {name} is not supported; only {known} is.",
                name=theirs.hidden_act,
                known=", ".join(ACTIVATIONS),
            )
        )
    head_dim = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    windows = _windows(theirs)

    def has(trait: bool | str) -> bool:
        return bool(getattr(theirs, trait, False)) if isinstance(trait, str) else trait

    return DecoderConfig(
        architecture=kind,
        vocab_size=theirs.vocab_size,
        hidden_size=theirs.hidden_size,
        mlp=GatedMlpConfig(theirs.intermediate_size, theirs.hidden_act, has(traits.mlp_bias), traits.fused_mlp),
        layers=theirs.num_hidden_layers,
        heads=theirs.num_attention_heads,
        kv_heads=theirs.num_key_value_heads or theirs.num_attention_heads,
        head_dim=head_dim,
        norm_eps=theirs.rms_norm_eps,
        rotary=_rotary(theirs, head_dim, traits.interleaved, qwen=bool(config.get("use_dynamic_ntk", False))),
        trained_length=config.get("seq_length", theirs.max_position_embeddings),
        context_length=theirs.max_position_embeddings,
        qkv_bias=has(traits.qkv_bias),
        output_bias=has(traits.output_bias),
        qk_norm=traits.qk_norm,
        sandwich_norms=traits.sandwich_norms,
        tied_head=bool(theirs.tie_word_embeddings),
        log_n_attention=bool(config.get("use_logn_attn", False)),
        windows=windows if any(windows) else (),
    )


def as_stored(config: DecoderConfig) -> dict[str, Any]:
    """The plain values by which an artifact's manifest describes a decoder: the MLP's among the others."""
    values = asdict(config)
    mlp = values.pop("mlp")
    stored = {"intermediate_size": mlp["inner"], "mlp_bias": mlp["bias"], "fused_mlp": mlp["fused"]}
    if mlp["activation"] != "silu":
        stored["activation"] = mlp["activation"]
    return values | stored


def from_stored(values: dict[str, Any]) -> DecoderConfig:
    """What `as_stored` described. Raises CheckpointError where it could not have."""
    try:
        rest = dict(values)
        mlp = GatedMlpConfig(
            rest.pop("intermediate_size"), rest.pop("activation", "silu"), rest.pop("mlp_bias"), rest.pop("fused_mlp")
        )
        rotary = Rotary(**rest["rotary"] | {"inverse_frequencies": tuple(rest["rotary"]["inverse_frequencies"])})
        return DecoderConfig(**(rest | {"mlp": mlp, "rotary": rotary, "windows": tuple(rest["windows"])}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # a key too few or too many, another type
        raise bounds.refused("decoder", str(error)) from None


def inverse_frequencies(base: float, dims: int) -> torch.Tensor:
    """Angle per position of each rotated pair: float32 [dims/2], computed in float32 as transformers does."""
    return 1.0 / base ** (torch.arange(0, dims, 2, dtype=torch.float32) / dims)


def unknown_architecture(kind: object) -> UnknownArchitecture:
    known = ("chatglm (ChatGLM3)", "qwen", "baichuan (Baichuan2-7B)", *ARCHITECTURES)
    return UnknownArchitecture(
        _("The architecture {name} is not supported. Known: {known}.", name=kind, known=", ".join(known))
    )


def _transformers_config(kind: str, config: dict) -> Any:
    """transformers' own reading of the file: defaults, and old spellings of rotary settings."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if type(layers := config.get("num_hidden_layers")) is int:  # transformers makes lists of that length
        bounds.whole("num_hidden_layers", layers, bounds.LAYERS)
    made = CONFIG_MAPPING[kind]
    described = ALWAYS | (DESCRIBING & {field.name for field in fields(made)})
    try:
        return made.from_dict({key: value for key, value in config.items() if key in described})
    except Exception as error:  # its validators raise many types
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise CheckpointError(
            _("config.json does not fit the architecture {name}: {reason}.", name=kind, reason=reason)
        ) from None


def _check_sizes(theirs: Any) -> None:
    """What must hold before anything is computed from them; `DecoderConfig` checks the rest."""
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
    ):
        bounds.whole(name, getattr(theirs, name))
    heads, head_dim = theirs.num_attention_heads, getattr(theirs, "head_dim", None)
    kv_heads = heads if theirs.num_key_value_heads is None else theirs.num_key_value_heads
    bounds.whole("num_key_value_heads", kv_heads)
    if head_dim is not None:
        bounds.whole("head_dim", head_dim)
    if heads % kv_heads or (head_dim is None and theirs.hidden_size % heads):
        raise CheckpointError(
            _(
                "config.json: the sizes do not fit: hidden_size must be a multiple of the attention heads, and these of "
                "the key and value heads."
            )
        )


def _rotary(theirs: Any, head_dim: int, interleaved: bool, qwen: bool) -> Rotary:
    parameters = theirs.rope_parameters
    if not isinstance(parameters, dict):
        raise bounds.refused("rope_parameters", parameters)
    kind = parameters.get("rope_type", "default")
    if not isinstance(kind, str) or kind not in ROPE_TYPES:
        raise CheckpointError(
            _("The rotary scaling {name} is not supported. Known: {known}.", name=kind, known=", ".join(ROPE_TYPES))
        )
    partial, factor = parameters.get("partial_rotary_factor", 1.0), parameters.get("factor")
    bounds.number("partial_rotary_factor", partial, 1.0)
    bounds.number("rope_theta", parameters.get("rope_theta"), 1e15, 1e-15)
    if factor is not None:
        bounds.number("factor", factor, 1e6, 1e-6)
    dims, base = int(head_dim * partial), float(parameters["rope_theta"])
    if dims <= 0 or dims % 2:
        raise CheckpointError(_("config.json: the rotary settings {settings} make no sense.", settings=parameters))
    frequencies, attention_factor = inverse_frequencies(base, dims), 1.0
    if kind in ("linear", "llama3", "yarn"):
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        try:
            frequencies, attention_factor = ROPE_INIT_FUNCTIONS[kind](theirs, device="cpu")
        except Exception as error:  # what a value of another type, or a missing one, raises
            raise bounds.refused("rope_parameters", f"{parameters}: {error}") from None
    dynamic = "qwen" if qwen else "ntk" if kind == "dynamic" else None
    return Rotary(
        dims,
        base,
        interleaved,
        tuple(frequencies.tolist()),
        float(attention_factor),
        dynamic,
        1.0 if factor is None else float(factor),
    )


def _windows(theirs: Any) -> tuple[int | None, ...]:
    """The sliding window of each layer, by the layer types where the configuration has them."""
    window, types = getattr(theirs, "sliding_window", None) or None, getattr(theirs, "layer_types", None)
    if window is not None:
        bounds.whole("sliding_window", window, bounds.WINDOW)
    if not types:
        return (window,) * theirs.num_hidden_layers
    if not isinstance(types, list | tuple) or any(kind not in LAYER_TYPES for kind in types):
        raise bounds.refused("layer_types", types)
    return tuple(window if kind == "sliding_attention" else None for kind in types)
