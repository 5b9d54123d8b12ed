"""How an artifact presents itself to other programs and to people."""

from itrex_chat.checkpoints import Checkpoint
from itrex_chat.quantization.plan import Treatment
from itrex_chat.quantization.statistics import ALGORITHMS, Statistics
from itrex_chat.settings.recipe import Quantization, Recipe
from itrex_chat.sources import Source


def transformers_config(config: dict, quantization: Quantization, treatments: list[Treatment]) -> dict:
    """The `config.json`: the transformers architecture with the `quantization_config` of auto-round.

    Matrices that differ from the rest are listed in `extra_config`. The head
    is stored apart from the embedding, whatever the model did. float32, so
    that other programs compute what they do not quantize as this one does.
    """
    extra: dict[str, dict[str, object]] = {}
    for treatment in treatments:
        if treatment.spec.role not in ("linear", "head"):
            continue
        module = treatment.spec.name.removesuffix(".weight")
        if not treatment.bits:
            if treatment.spec.role == "linear":
                extra[module] = {"bits": 16}
        elif treatment.spec.role == "head" or (treatment.bits, treatment.group_size) != (
            quantization.bits,
            quantization.group_size,
        ):
            extra[module] = {
                "bits": treatment.bits,
                "group_size": treatment.group_size,
                "sym": True,
                "data_type": "int",
            }
    return config | {
        "dtype": "float32",
        "tie_word_embeddings": False,
        "quantization_config": {
            "quant_method": "auto-round",
            "packing_format": "auto_round:auto_gptq",
            "bits": quantization.bits,
            "group_size": quantization.group_size,
            "sym": True,
            "data_type": "int",
            "iters": 0,
            "block_name_to_quantize": "model.layers",
            "extra_config": extra,
        },
    }


def model_card(recipe: Recipe, source: Source, checkpoint: Checkpoint, statistics: Statistics) -> str:
    """The README of the artifact."""
    quantization, origin = recipe.quantization, source.origin
    where = origin.get("repository") or origin.get("path") or f"{origin.get('name')} {origin.get('version')}"
    commit = f" at {origin['commit']}" if origin.get("commit") else ""
    return f"""# {recipe.name}, {quantization.weight_dtype}

Made by itrex_chat from {where}{commit} ({origin["kind"]}, stored as {checkpoint.description}).
{ALGORITHMS[quantization.effective_algorithm]}, symmetric, groups of {quantization.group_size}; output head {quantization.head};
embedding {statistics.embedding}. {statistics.bits_per_weight:.2f} bits per weight.

```
{statistics.table()}
```

Layout: GPTQ (`qweight`, `qzeros`, `scales`), zero point {1 << (quantization.bits - 1)}, scales in float16, negative
ones included. It loads in transformers with auto-round installed:

```python
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("THIS FOLDER")
```

The licence is that of the original model.
"""
