"""Tiny models in the layouts that users have, with vocabularies made here: random weights, real file formats."""

import base64
import json
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

CORPUS = [
    "你好，世界！今天天气很好，我们一起去公园散步，然后回家做饭吃吧。",
    "冬天：能穿多少穿多少。夏天：能穿多少穿多少。",
    "明明明明明白白白喜欢他，可她就是不说。",
    "The quick brown fox jumps over the lazy dog.",
    "What is the capital of France? It is Paris.",
    "def f(x):\n    return x ** 2",
    "1234567890 3.14159",
    "system user assistant",
] * 4
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CHATGLM3 = {
    "model_type": "chatglm",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "ffn_hidden_size": 96,
    "hidden_size": 64,
    "kv_channels": 16,
    "layernorm_epsilon": 1e-5,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 4,
    "num_layers": 2,
    "original_rope": True,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 8192,
    "torch_dtype": "float16",
}
QWEN = {
    "model_type": "qwen",
    "hidden_size": 64,
    "intermediate_size": 192,
    "kv_channels": 16,
    "layer_norm_epsilon": 1e-6,
    "max_position_embeddings": 2048,
    "no_bias": True,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "seq_length": 48,
    "tie_word_embeddings": False,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "vocab_size": 640,
}
BAICHUAN2 = {
    "model_type": "baichuan",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 4096,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-6,
    "vocab_size": 125696,
    "eos_token_id": 2,
}
NATIVE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 640,
    "max_position_embeddings": 512,
    "rms_norm_eps": 2.0**-20,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def sentencepiece_model(folder: Path, reserved: bool = False) -> None:
    """tokenizer.model: some 500 pieces with byte fallback; with Baichuan2's reserved words if asked."""
    words = [f"<reserved_{number - 89}>" for number in range(3, 203)] if reserved else []
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(CORPUS), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=500 + len(words),
        byte_fallback=True,
        model_type="bpe",
        user_defined_symbols=words,
        hard_vocab_limit=False,
        minloglevel=2,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=not reserved,
    )
    corpus.unlink()
    (folder / "tokenizer.vocab").unlink()


def tiktoken_file(folder: Path) -> None:
    """qwen.tiktoken: all bytes and the merges of some words."""
    ranks = [bytes([value]) for value in range(256)]
    for word in ("你好", "世界", " the", "user", "assistant", "system"):
        encoded = word.encode()
        ranks += [encoded[:end] for end in range(2, len(encoded) + 1) if encoded[:end] not in ranks]
    (folder / "qwen.tiktoken").write_bytes(
        b"\n".join(base64.b64encode(token) + b" %d" % rank for rank, token in enumerate(ranks)) + b"\n"
    )


def fast_tokenizer(folder: Path, template: str = CHATML, *words: str) -> None:
    """tokenizer.json and tokenizer_config.json: byte-level BPE, ChatML, added tokens that are no control tokens: <think>, `words`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in ("<think>", *words)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"chat_template": template, "eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
        ),
        "utf-8",
    )


class Weights:
    """Random tensors, the same for the same seed."""

    def __init__(self, dtype: torch.dtype, seed: int = 0):
        self.dtype, self.random, self.tensors = dtype, np.random.default_rng(seed), {}

    def add(self, name: str, *shape: int, scale: float = 0.1) -> None:
        values = self.random.standard_normal(shape, np.float32) * scale
        self.tensors[name] = torch.from_numpy(1 + values if len(shape) == 1 and "norm" in name else values).to(
            self.dtype
        )


def chatglm3(folder: Path, **changes) -> Path:
    config = CHATGLM3 | changes
    hidden, inner, vocabulary = config["hidden_size"], config["ffn_hidden_size"], config["padded_vocab_size"]
    qkv = hidden + 2 * config["multi_query_group_num"] * config["kv_channels"]
    weights = Weights(torch.float16)
    weights.add("transformer.embedding.word_embeddings.weight", vocabulary, hidden, scale=1)
    for number in range(config["num_layers"]):
        block = f"transformer.encoder.layers.{number}."
        weights.add(block + "input_layernorm.weight", hidden)
        weights.add(block + "self_attention.query_key_value.weight", qkv, hidden)
        weights.add(block + "self_attention.query_key_value.bias", qkv)
        weights.add(block + "self_attention.dense.weight", hidden, hidden)
        weights.add(block + "post_attention_layernorm.weight", hidden)
        weights.add(block + "mlp.dense_h_to_4h.weight", 2 * inner, hidden)
        weights.add(block + "mlp.dense_4h_to_h.weight", hidden, inner)
    weights.add("transformer.encoder.final_layernorm.weight", hidden)
    weights.add("transformer.output_layer.weight", vocabulary, hidden)
    sharded(described(folder, config), weights.tensors, 2)
    sentencepiece_model(folder)
    return folder


def qwen(folder: Path, **changes) -> Path:
    config = QWEN | changes
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"] // 2, config["vocab_size"]
    weights = Weights(torch.bfloat16)
    weights.add("transformer.wte.weight", vocabulary, hidden, scale=1)
    for number in range(config["num_hidden_layers"]):
        block = f"transformer.h.{number}."
        weights.add(block + "ln_1.weight", hidden)
        weights.add(block + "attn.c_attn.weight", 3 * hidden, hidden)
        weights.add(block + "attn.c_attn.bias", 3 * hidden)
        weights.add(block + "attn.c_proj.weight", hidden, hidden)
        weights.add(block + "ln_2.weight", hidden)
        weights.add(block + "mlp.w1.weight", inner, hidden)
        weights.add(block + "mlp.w2.weight", inner, hidden)
        weights.add(block + "mlp.c_proj.weight", hidden, inner)
    weights.add("transformer.ln_f.weight", hidden)
    weights.add("lm_head.weight", vocabulary, hidden)
    sharded(described(folder, config), weights.tensors, 3)
    tiktoken_file(folder)
    return folder


def baichuan2(folder: Path, **changes) -> Path:
    config = BAICHUAN2 | changes
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    weights = Weights(torch.bfloat16)
    weights.add("model.embed_tokens.weight", vocabulary, hidden, scale=1)
    for number in range(config["num_hidden_layers"]):
        block = f"model.layers.{number}."
        weights.add(block + "input_layernorm.weight", hidden)
        weights.add(block + "self_attn.W_pack.weight", 3 * hidden, hidden)
        weights.add(block + "self_attn.o_proj.weight", hidden, hidden)
        weights.add(block + "post_attention_layernorm.weight", hidden)
        weights.add(block + "mlp.gate_proj.weight", inner, hidden)
        weights.add(block + "mlp.up_proj.weight", inner, hidden)
        weights.add(block + "mlp.down_proj.weight", hidden, inner)
    weights.add("model.norm.weight", hidden)
    weights.add("lm_head.weight", vocabulary, hidden)
    torch.save(weights.tensors, described(folder, config) / "pytorch_model.bin")
    sentencepiece_model(folder, reserved=True)
    return folder


def standard(folder: Path, architecture: str, **changes) -> Path:
    """A model of one of transformers' own architectures, saved by transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(architecture, **(NATIVE | changes))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.15)
            if "norm" in name:
                parameter.add_(1)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    fast_tokenizer(folder)
    return folder


def sharded(folder: Path, tensors: dict[str, torch.Tensor], parts: int) -> None:
    """Safetensors files with an index."""
    names, homes = list(tensors), {}
    for part in range(parts):
        chosen = names[part * len(names) // parts : (part + 1) * len(names) // parts]
        file = f"model-{part + 1:05d}-of-{parts:05d}.safetensors"
        save_file({name: tensors[name] for name in chosen}, folder / file)
        homes |= dict.fromkeys(chosen, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": homes}), "utf-8")


def described(folder: Path, config: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder
