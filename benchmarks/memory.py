"""What each model of recipes/ takes of 8, 16, 24 and 32 GB, as the program plans it: the table of the README.

    python benchmarks/memory.py [--rate 2.6] [--chinese]

Models are not read: their published sizes are below. `--rate` is the disk's in GB/s, by which the seconds of a pass are
foretold. One answer at a time, of 1024 tokens with its prompt, and nothing drafts.
"""

import argparse
from dataclasses import dataclass

import torch
from measuring.dense import COMMON

from itrex_chat.architecture.config import DecoderConfig, from_transformers
from itrex_chat.architecture.layout import TensorSpec, tensors
from itrex_chat.decoder.loading import linear_names
from itrex_chat.engines.memory import Memory
from itrex_chat.engines.native.memory import needed
from itrex_chat.engines.native.streaming import Streaming, plan
from itrex_chat.kernels import KERNELS
from itrex_chat.settings import recipe as recipes

SIZES = (8, 16, 24, 32)  # GB that are left for the program
TOKENS = 1024
HEADINGS = (
    ("model", "INT4 takes", "FP32 takes, all in memory", "with {} GB"),
    ("模型", "INT4 占用", "FP32 全部在内存中时占用", "{} GB"),
)
CELLS = (
    ("in memory", "{:.1f} of {:.1f} GB from disk a pass, {:.1f} s", "; no INT4", "–"),
    ("在内存中", "每次前向从磁盘读 {:.1f} / {:.1f} GB，{:.1f} 秒", "；INT4 放不下", "–"),
)


@dataclass(frozen=True)
class Published:
    """A recipe's model: hidden size, inner size, layers, heads, key and value heads, size of a head, vocabulary. `fused`: its
    queries, keys and values lie in the file as one matrix, and so do gate and up if that is 2. `computed_head`: the head is
    not as it lies in the file; `converted`: nothing is, and all becomes FP32."""

    recipe: str
    sizes: tuple[int, int, int, int, int, int, int]
    tied: bool = False
    fused: int = 0
    computed_head: bool = False
    converted: bool = False

    @property
    def config(self) -> DecoderConfig:
        hidden, inner, layers, heads, kv_heads, head_dim, vocabulary = self.sizes
        own = {
            "model_type": "qwen3",
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "vocab_size": vocabulary,
            "tie_word_embeddings": self.tied,
        }
        return from_transformers(COMMON | own)

    def stored(self, spec: TensorSpec) -> tuple[torch.dtype, bool]:
        computed = self.converted or (self.computed_head and spec.role == "head")
        return (torch.float32, False) if computed else (torch.bfloat16, True)

    def memory(self, precision: str) -> Memory:
        quantization = recipes.load(self.recipe).quantization
        return needed(self.config, precision, TOKENS, quantization, KERNELS["native"], self.stored)

    def matrices(self) -> list[tuple[str, int]]:
        """Those that lie in files, in the order of a pass, and their bytes."""
        specs = {spec.name: spec for spec in tensors(self.config)}
        found = []
        for names in linear_names(self.config):
            product = [specs[f"{name}.weight"] for name in names]
            whole = (self.fused and "q_proj" in names[0]) or (self.fused == 2 and "gate_proj" in names[0])
            for part in [product] if whole else [[spec] for spec in product]:
                if self.stored(part[0])[1]:
                    found.append((part[0].name, sum(spec.size * 2 for spec in part)))
        return found

    def planned(self, free: int) -> Streaming | None:
        """What of FP32 is streamed with so many bytes; None where it cannot run."""
        memory = self.memory("fp32")
        return plan(self.matrices(), memory.least, free) if memory.least <= free else None


PUBLISHED = (
    Published("smollm2-135m", (576, 1536, 30, 9, 3, 64, 49152), tied=True, converted=True),
    Published("qwen2.5-1.5b-instruct", (1536, 8960, 28, 12, 2, 128, 151936), tied=True),
    Published("qwen3-1.7b", (2048, 6144, 28, 16, 8, 128, 151936), tied=True),
    Published("qwen3-4b-instruct", (2560, 9728, 36, 32, 8, 128, 151936), tied=True),
    Published("chatglm3-6b", (4096, 13696, 28, 32, 2, 128, 65024), fused=2),
    Published("baichuan2-7b-chat", (4096, 11008, 32, 32, 32, 128, 125696), fused=1, computed_head=True),
    Published("qwen-7b-chat", (4096, 11008, 32, 32, 32, 128, 151936), fused=1),
)


def row(model: Published, rate: float, words: tuple[str, str, str, str]) -> list[str]:
    whole, streamed, too_large, none = words
    int4, matrices = model.memory("int4"), dict(model.matrices())
    cells = [f"{int4.least / 1e9:.1f} GB", f"{model.memory('fp32').total / 1e9:.1f} GB"]
    for size in SIZES:
        free = size * 10**9
        planned = model.planned(free)
        read = sum(matrices[name] for name in planned.streamed) / 1e9 if planned else 0.0
        cell = streamed.format(read, sum(matrices.values()) / 1e9, read / rate) if read else whole if planned else none
        cells.append(cell + ("" if int4.least <= free else too_large))
    return [model.recipe, *cells]


def table(rate: float, chinese: bool) -> str:
    *first, last = HEADINGS[chinese]
    heading = [*first, *(last.format(size) for size in SIZES)]
    rows = [
        heading,
        ["---"] + ["---:"] * (len(heading) - 1),
        *(row(model, rate, CELLS[chinese]) for model in PUBLISHED),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=2.6)
    parser.add_argument("--chinese", action="store_true")
    given = parser.parse_args()
    print(table(given.rate, given.chinese))
