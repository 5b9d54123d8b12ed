"""The tensors of a decoder, as transformers names them: what a checkpoint must hold and an artifact holds."""

from collections.abc import Iterator
from dataclasses import dataclass

from itrex_chat.architecture.config import DecoderConfig

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class TensorSpec:
    """A tensor's name, shape (rows × columns for matrices: out × in) and role.

    Roles: "embedding", "linear" (a matrix of a decoder block), "head",
    "vector" (norms and biases).
    """

    name: str
    shape: tuple[int, ...]
    role: str

    @property
    def block(self) -> int:
        """The number of the decoder block that it is of; -1 where it is of none."""
        return int(self.name.split(".")[2]) if self.name.startswith("model.layers.") else -1

    @property
    def size(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count


def layer(number: int) -> str:
    """The prefix of a decoder block's tensors."""
    return f"model.layers.{number}."


def tensors(config: DecoderConfig) -> Iterator[TensorSpec]:
    """Every tensor in the order in which it is used; a tied head is listed too."""
    hidden, queries, keys = config.hidden_size, config.heads * config.head_dim, config.kv_heads * config.head_dim
    yield TensorSpec(EMBEDDING, (config.vocab_size, hidden), "embedding")
    for number in range(config.layers):
        block = layer(number)
        yield TensorSpec(block + "input_layernorm.weight", (hidden,), "vector")
        for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            yield from _linear(f"{block}self_attn.{name}", rows, hidden, config.qkv_bias)
        if config.qk_norm:
            yield TensorSpec(block + "self_attn.q_norm.weight", (config.head_dim,), "vector")
            yield TensorSpec(block + "self_attn.k_norm.weight", (config.head_dim,), "vector")
        yield from _linear(block + "self_attn.o_proj", hidden, queries, config.output_bias)
        if config.sandwich_norms:
            yield TensorSpec(block + "post_self_attn_layernorm.weight", (hidden,), "vector")
        yield TensorSpec(block + "post_attention_layernorm.weight", (hidden,), "vector")
        for name, rows, columns in config.mlp.matrices(hidden):
            yield from _linear(block + name, rows, columns, config.mlp.bias)
        if config.sandwich_norms:
            yield TensorSpec(block + "post_mlp_layernorm.weight", (hidden,), "vector")
    yield TensorSpec("model.norm.weight", (hidden,), "vector")
    yield TensorSpec(HEAD, (config.vocab_size, hidden), "head")


def _linear(name: str, rows: int, columns: int, bias: bool) -> Iterator[TensorSpec]:
    yield TensorSpec(name + ".weight", (rows, columns), "linear")
    if bias:
        yield TensorSpec(name + ".bias", (rows,), "vector")
