"""A float16 GGUF file from a dense folder of the llama or qwen2 architecture, for llama.cpp's quantizer.

    python -m measuring.gguf_f16 FOLDER FILE

Without a vocabulary unless one is wanted: contestants are asked with token ids.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODULES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def main(
    folder: Path, target: Path, add_vocabulary: Callable[[Any], None] | None = None, matrices: str = "float16"
) -> None:
    """`add_vocabulary` writes the tokenizer's part of the metadata; `matrices` are "float16" or "float32"."""
    import gguf
    import numpy as np
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text("utf-8"))
    heads, kind = config["num_attention_heads"], config["model_type"]
    writer = gguf.GGUFWriter(target, kind)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(getattr(gguf.LlamaFileType, {"float16": "MOSTLY_F16", "float32": "ALL_F32"}[matrices]))
    if add_vocabulary:
        add_vocabulary(writer)
    else:
        writer.add_tokenizer_model("no_vocab")
    files = {path.name: safe_open(path, "numpy") for path in sorted(folder.glob("*.safetensors"))}
    homes: dict[str, str] = {}
    for home, file in files.items():
        homes |= dict.fromkeys(file.keys(), home)
    for name, home in homes.items():
        shape = files[home].get_slice(name).get_shape()
        dtype = np.dtype(np.float32 if len(shape) == 1 else matrices)
        writer.add_tensor_info(_name(name), shape, dtype, dtype.itemsize * int(np.prod(shape)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, home in homes.items():
        values = files[home].get_tensor(name)
        if kind == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            # llama.cpp turns neighbouring channels of a head where transformers turns its halves.
            rows = config["num_key_value_heads"] if "k_proj" in name else heads
            values = values.reshape(rows, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        writer.write_tensor_data(values.astype(np.float32 if values.ndim == 1 else matrices))
    writer.close()


def _name(name: str) -> str:
    if name in WHOLE:
        return WHOLE[name]
    block, _dot, part = name.removeprefix("model.layers.").partition(".")
    module, _dot, kind = part.rpartition(".")
    return f"blk.{block}.{MODULES[module]}.{kind}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
