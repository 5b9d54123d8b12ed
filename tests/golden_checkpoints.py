"""The tiny checkpoints that the golden values belong to: random weights drawn in a fixed order (numpy PCG64)."""

from pathlib import Path

import numpy as np
import tiny_models
import torch

SEED = 20261121
HIDDEN, INNER, LAYERS = 128, 192, 3


class Draw:
    """Tensors drawn one after the other from one stream of random numbers."""

    def __init__(self, dtype: torch.dtype):
        self.random, self.dtype, self.tensors = np.random.Generator(np.random.PCG64(SEED)), dtype, {}

    def matrix(self, name: str, *shape: int, spread: float) -> None:
        values = self.random.standard_normal(shape, dtype=np.float32) * np.float32(spread)
        self.tensors[name] = torch.from_numpy(values).to(self.dtype)

    def norm(self, name: str) -> None:
        values = 1 + 0.2 * self.random.standard_normal(HIDDEN, dtype=np.float32)
        self.tensors[name] = torch.from_numpy(values).to(self.dtype)


def chatglm3(folder: Path) -> Path:
    draw, vocabulary, qkv = Draw(torch.float16), 65024, HIDDEN + 2 * 2 * 32
    draw.matrix("transformer.embedding.word_embeddings.weight", vocabulary, HIDDEN, spread=1.0)
    for number in range(LAYERS):
        block = f"transformer.encoder.layers.{number}."
        draw.norm(block + "input_layernorm.weight")
        draw.matrix(block + "self_attention.query_key_value.weight", qkv, HIDDEN, spread=0.12)
        draw.matrix(block + "self_attention.query_key_value.bias", qkv, spread=0.3)
        draw.matrix(block + "self_attention.dense.weight", HIDDEN, HIDDEN, spread=0.12)
        draw.norm(block + "post_attention_layernorm.weight")
        draw.matrix(block + "mlp.dense_h_to_4h.weight", 2 * INNER, HIDDEN, spread=0.12)
        draw.matrix(block + "mlp.dense_4h_to_h.weight", HIDDEN, INNER, spread=0.12)
    draw.norm("transformer.encoder.final_layernorm.weight")
    draw.matrix("transformer.output_layer.weight", vocabulary, HIDDEN, spread=0.3)
    draw.tensors["transformer.rotary_pos_emb.inv_freq"] = torch.ones(8)  # derived in the published model: to be ignored
    config = tiny_models.CHATGLM3 | {
        "hidden_size": HIDDEN,
        "ffn_hidden_size": INNER,
        "num_layers": LAYERS,
        "kv_channels": 32,
    }
    tiny_models.sharded(tiny_models.described(folder, config), draw.tensors, 2)
    return folder


def qwen(folder: Path) -> Path:
    draw, vocabulary = Draw(torch.bfloat16), 151936
    draw.matrix("transformer.wte.weight", vocabulary, HIDDEN, spread=1.0)
    for number in range(LAYERS):
        block = f"transformer.h.{number}."
        draw.norm(block + "ln_1.weight")
        draw.matrix(block + "attn.c_attn.weight", 3 * HIDDEN, HIDDEN, spread=0.12)
        draw.matrix(block + "attn.c_attn.bias", 3 * HIDDEN, spread=0.3)
        draw.matrix(block + "attn.c_proj.weight", HIDDEN, HIDDEN, spread=0.12)
        draw.norm(block + "ln_2.weight")
        draw.matrix(block + "mlp.w1.weight", INNER, HIDDEN, spread=0.12)
        draw.matrix(block + "mlp.w2.weight", INNER, HIDDEN, spread=0.12)
        draw.matrix(block + "mlp.c_proj.weight", HIDDEN, INNER, spread=0.12)
    draw.norm("transformer.ln_f.weight")
    draw.matrix("lm_head.weight", vocabulary, HIDDEN, spread=0.3)
    config = tiny_models.QWEN | {
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * INNER,
        "num_hidden_layers": LAYERS,
        "kv_channels": 32,
        "vocab_size": vocabulary,
        "seq_length": 64,
        "max_position_embeddings": 32768,
    }
    tiny_models.sharded(tiny_models.described(folder, config), draw.tensors, 3)
    return folder


def baichuan2(folder: Path) -> Path:
    draw, vocabulary = Draw(torch.bfloat16), 125696
    draw.matrix("model.embed_tokens.weight", vocabulary, HIDDEN, spread=1.0)
    for number in range(LAYERS):
        block = f"model.layers.{number}."
        draw.norm(block + "input_layernorm.weight")
        draw.matrix(block + "self_attn.W_pack.weight", 3 * HIDDEN, HIDDEN, spread=0.12)
        draw.matrix(block + "self_attn.o_proj.weight", HIDDEN, HIDDEN, spread=0.12)
        draw.norm(block + "post_attention_layernorm.weight")
        draw.matrix(block + "mlp.gate_proj.weight", INNER, HIDDEN, spread=0.12)
        draw.matrix(block + "mlp.up_proj.weight", INNER, HIDDEN, spread=0.12)
        draw.matrix(block + "mlp.down_proj.weight", HIDDEN, INNER, spread=0.12)
    draw.norm("model.norm.weight")
    draw.matrix("lm_head.weight", vocabulary, HIDDEN, spread=1.0)
    config = tiny_models.BAICHUAN2 | {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS}
    torch.save(draw.tensors, tiny_models.described(folder, config) / "pytorch_model.bin")
    return folder
