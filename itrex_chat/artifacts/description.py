"""How an artifact presents itself to other programs and to people."""

from collections import Counter

from itrex_chat.checkpoints import Checkpoint
from itrex_chat.quantization.plan import Treatment
from itrex_chat.quantization.statistics import ALGORITHMS, Statistics, groups_of
from itrex_chat.settings.quantization import Quantization
from itrex_chat.settings.recipe import Recipe
from itrex_chat.sources import Source

LOADS = """It loads in transformers with auto-round installed:

```python
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("THIS FOLDER")
```"""
# What the layout is besides, by the name that AutoRound has for it.
LAYOUTS = {
    "auto_round:auto_gptq": "zero point {middle}, scales in float16, negative\nones included. " + LOADS,
    "auto_round": "zero points as they are (not minus one), scales in float16. " + LOADS,
    "itrex_chat:float16_zeros": "scales in float16, and zero points in float16 (`zeros`) where\na matrix has them: "
    "W = (integer - zero) * scale. No other program reads these.",
}


def transformers_config(config: dict, quantization: Quantization, treatments: list[Treatment]) -> dict:
    """The `config.json`: the transformers architecture with the `quantization_config` of auto-round.

    Matrices that differ from the rest are listed in `extra_config`; where integers
    were taken as they are, the rest is as most of these. The head
    is stored apart from the embedding, whatever the model did. float32, so
    that other programs compute what they do not quantize as this one does.
    """
    extra: dict[str, dict[str, object]] = {}
    usual = _usual(quantization, treatments)
    for treatment in treatments:
        if treatment.spec.role not in ("linear", "head"):
            continue
        module = treatment.spec.name.removesuffix(".weight")
        if not treatment.bits:
            if treatment.spec.role == "linear":
                extra[module] = {"bits": 16}
        elif treatment.spec.role == "head" or _kind(treatment) != usual:
            bits, group_size, symmetric = _kind(treatment)
            extra[module] = {"bits": bits, "group_size": group_size, "sym": symmetric, "data_type": "int"}
    return config | {
        "dtype": "float32",
        "tie_word_embeddings": False,
        "quantization_config": {
            "quant_method": "auto-round",
            "packing_format": _packing(treatments),
            "bits": usual[0],
            "group_size": usual[1],
            "sym": usual[2],
            "data_type": "int",
            "iters": 0,
            "block_name_to_quantize": "model.layers",
            "extra_config": extra,
        },
    }


def _kind(treatment: Treatment) -> tuple[int | None, int, bool]:
    """Bits, group size, and whether all zero points are in the middle."""
    return treatment.bits, treatment.group_size, not treatment.zeros


def _usual(quantization: Quantization, treatments: list[Treatment]) -> tuple[int | None, int, bool]:
    """What most of the matrices whose integers were taken are, or what the recipe says."""
    taken = Counter(_kind(treatment) for treatment in treatments if treatment.taken)
    return taken.most_common(1)[0][0] if taken else (quantization.bits, quantization.group_size, True)


def _packing(treatments: list[Treatment]) -> str:
    """AutoRound's name of the layout; another one where there are zero points that it does not know."""
    kinds = {treatment.zeros for treatment in treatments}
    if "float" in kinds:
        return "itrex_chat:float16_zeros"
    return "auto_round" if "whole" in kinds else "auto_round:auto_gptq"


def _made(quantization: Quantization, treatments: list[Treatment]) -> str:
    taken = [treatment for treatment in treatments if treatment.taken]
    others = sum(1 for treatment in treatments if treatment.bits and not treatment.taken)
    groups = groups_of(quantization.group_size, quantization.effective_budget)
    rounded = f"{ALGORITHMS[quantization.effective_algorithm]}, symmetric, {groups}"
    if not taken:
        return rounded
    return f"The integers of {len(taken)} matrices are the original's own; {others} others: {rounded}"


def model_card(
    recipe: Recipe, source: Source, checkpoint: Checkpoint, statistics: Statistics, treatments: list[Treatment]
) -> str:
    """The README of the artifact."""
    quantization, origin, packing = recipe.quantization, source.origin, _packing(treatments)
    title = checkpoint.description if any(each.taken for each in treatments) else quantization.weight_dtype
    where = origin.get("repository") or origin.get("path") or f"{origin.get('name')} {origin.get('version')}"
    commit = f" at {origin['commit']}" if origin.get("commit") else ""
    return f"""# {recipe.name}, {title}

Made by itrex_chat from {where}{commit} ({origin["kind"]}, stored as {checkpoint.description}).
{_made(quantization, treatments)}; output head {quantization.head};
embedding {statistics.embedding}. {statistics.bits_per_weight:.2f} bits per weight.

```
{statistics.table()}
```

Layout: GPTQ (`qweight`, `qzeros`, `scales`), {LAYOUTS[packing].format(middle=1 << (quantization.bits - 1))}

The licence is that of the original model.
"""
