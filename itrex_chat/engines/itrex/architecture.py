"""A decoder as ITREX's transformers 4.38 can build it: its `config.json`, and where each tensor comes from.

Llama, Mistral and Qwen2 are known there. What differs from them only in its
rotary frequencies or in how its tensors are laid out is handed over as a Llama
whose frequencies the worker sets: ChatGLM3's rotation of half a head, of
neighbouring channels, is Llama's rotation of the whole head after the channels
are sorted, with frequency 0 for the half that is not rotated.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from itrex_chat.architecture.config import DecoderConfig, inverse_frequencies
from itrex_chat.architecture.layout import layer
from itrex_chat.foundation.errors import UnknownArchitecture
from itrex_chat.foundation.language import _

NAMES = {
    "qwen2": "qwen-gpt",
    "mistral": "mistral",
    "llama": "llama",
}  # what ITREX's match by parts of a name understands
LONGEST = {"llama": 4096, "mistral": 32768, "qwen2": 32768}  # tokens; Llama's mask takes the square of it
KINDS = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM"}


@dataclass(frozen=True)
class Rows:
    """The rows of a tensor: those of `module` from `first` on, `count` of them, in another order where `order` says so."""

    module: str
    first: int
    count: int
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class Architecture:
    """What ITREX is given: the architecture, its configuration, each matrix's rows, and frequencies to set, or ()."""

    kind: str
    config: dict
    matrices: dict[str, Rows]
    frequencies: tuple[float, ...]
    context: int  # tokens

    @property
    def name(self) -> str:
        """The folder's name."""
        return NAMES[self.kind]


def for_itrex(decoder: DecoderConfig, stop_ids: list[int]) -> Architecture:
    """The architecture that computes what `decoder` does. Raises UnknownArchitecture where ITREX has none."""
    head_dim = decoder.hidden_size // decoder.heads
    for missing, what in (
        (decoder.qk_norm, _("norms of queries and keys")),
        (decoder.sandwich_norms, _("norms behind attention and MLP")),
        (decoder.mlp.bias, _("biases in the MLP")),
        (decoder.head_dim != head_dim, _("heads of another size")),
        (decoder.rotary.attention_factor != 1, _("scaled rotary positions (YaRN)")),
    ):
        if missing:
            raise UnknownArchitecture(
                _(
                    "ITREX 1.4.2 does not know this architecture ({name} with {what}); the native engine does.",
                    name=decoder.architecture,
                    what=what,
                )
            )
    rotary = decoder.rotary
    plain = (
        not rotary.interleaved
        and rotary.dims == head_dim
        and rotary.inverse_frequencies == tuple(inverse_frequencies(rotary.base, head_dim).tolist())
    )
    kind = decoder.architecture if plain and decoder.architecture in KINDS else "llama"
    context = min(decoder.context_length, LONGEST[kind])
    if rotary.dynamic or decoder.log_n_attention:
        context = min(context, decoder.trained_length)
    if any(decoder.windows) and kind != "mistral":  # within its window it attends to everything
        context = min(context, *(window for window in decoder.windows if window))
    config = {
        "model_type": kind,
        "architectures": [KINDS[kind]],
        "vocab_size": decoder.vocab_size,
        "hidden_size": decoder.hidden_size,
        "intermediate_size": decoder.mlp.inner,
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": decoder.norm_eps,
        "rope_theta": rotary.base,
        "max_position_embeddings": context,
        "tie_word_embeddings": decoder.tied_head,
        "use_cache": True,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": stop_ids,
        "pad_token_id": 0,
    }
    if kind == "llama":
        config["attention_bias"] = decoder.qkv_bias or decoder.output_bias
    if kind == "mistral":
        config["sliding_window"] = decoder.window(0)
    return Architecture(kind, config, dict(_matrices(decoder)), () if plain else _frequencies(decoder), context)


def _frequencies(decoder: DecoderConfig) -> tuple[float, ...]:
    rotated = decoder.rotary.inverse_frequencies
    return rotated + (0.0,) * (decoder.head_dim // 2 - len(rotated))


def _matrices(decoder: DecoderConfig) -> Iterator[tuple[str, Rows]]:
    """ITREX's modules with the artifact's modules that hold their rows."""
    queries, keys, inner = (decoder.heads * decoder.head_dim, decoder.kv_heads * decoder.head_dim, decoder.mlp.inner)
    for number in range(decoder.layers):
        block = layer(number)
        for name, rows in (("q_proj", queries), ("k_proj", keys)):
            yield f"{block}self_attn.{name}", Rows(f"{block}self_attn.{name}", 0, rows, _order(decoder, rows))
        for name, rows in (
            ("self_attn.v_proj", keys),
            ("self_attn.o_proj", decoder.hidden_size),
            ("mlp.down_proj", decoder.hidden_size),
        ):
            yield block + name, Rows(block + name, 0, rows)
        for name, first in (("gate_proj", 0), ("up_proj", inner)):
            if decoder.mlp.fused:
                yield f"{block}mlp.{name}", Rows(f"{block}mlp.gate_up_proj", first, inner)
            else:
                yield f"{block}mlp.{name}", Rows(f"{block}mlp.{name}", 0, inner)


def _order(decoder: DecoderConfig, rows: int) -> tuple[int, ...]:
    """For each row, which one it was, so that channel i of a head is rotated with channel i + head_dim/2."""
    rotary, half = decoder.rotary, decoder.head_dim // 2
    if not rotary.interleaved and rotary.dims == decoder.head_dim:
        return ()
    pairs = [(2 * i, 2 * i + 1) if rotary.interleaved else (i, i + rotary.dims // 2) for i in range(rotary.dims // 2)]
    still = range(rotary.dims, decoder.head_dim)
    left = [*(pair[0] for pair in pairs), *still[: half - len(pairs)]]
    right = [*(pair[1] for pair in pairs), *still[half - len(pairs) :]]
    return tuple(head + channel for head in range(0, rows, decoder.head_dim) for channel in (*left, *right))
