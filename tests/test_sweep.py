"""Sweeps and attribution: recipes and parts of one recipe, told apart on the same tokens."""

import dataclasses
import json

import pytest

from itrex_chat import attribute as attributing
from itrex_chat import native
from itrex_chat import sweep as sweeping
from itrex_chat.artifacts import ArtifactStore
from itrex_chat.foundation.errors import RecipeError, RunError
from itrex_chat.quality.intervals import Estimate
from itrex_chat.quality.measuring import Corpus
from itrex_chat.report.sweeps import sweep_page, sweep_rows, sweep_verdict
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.quantization import Quantization
from itrex_chat.sweeps.sweeping import Outcome


def test_a_sweep_tells_recipes_apart_and_leaves_nothing_behind(models, text, tmp_path, capsys):
    out = tmp_path / "sweep"
    assert (
        sweeping.main(
            [
                "--model",
                str(models("qwen2")),
                "--text",
                str(text),
                "--out",
                str(out),
                "--recipes",
                "int4_fullrange:32,int8",
                "--kv-cache",
                "int8",
            ]
        )
        == 0
    )
    content = json.loads((out / "sweep.json").read_text("utf-8"))
    first, kept, second, _kept = content["recipes"]
    assert kept["label"] == "int4_fullrange g32 · head int8 kv int8" and kept["cache_format"] == "int8"
    assert kept["disk_bytes"] == first["disk_bytes"] and kept["difference"]["value"] != 0
    assert content["schema"] == 1 and first["difference"] is None
    assert second["difference"]["high"] < 0 and second["disk_bytes"] > first["disk_bytes"]
    assert second["total"]["figures"]["kld_mean"]["value"] == pytest.approx(
        first["total"]["figures"]["kld_mean"]["value"] + second["difference"]["value"]
    )
    assert "Better than int4_fullrange g32 · head int8: int8 g32 · head int8" in capsys.readouterr().out
    assert "<svg" in (out / "sweep.html").read_text("utf-8") and "int8 g32" in (out / "sweep.csv").read_text("utf-8")
    assert ArtifactStore().folders() == []


def test_layers_that_are_read_from_disk_for_each_pass_are_foretold(models, text, tmp_path, capsys):
    if reason := native.missing():
        pytest.skip(reason)
    recipe = recipes.load(str(models("qwen2")), ["fp32.memory", "0.1"])
    attributing.attribute(recipe, texts=[text], out=tmp_path / "out")
    steps, layers = [
        line for line in capsys.readouterr().err.splitlines() if "are read from disk for each pass" in line
    ]
    count = [int(line.rpartition("; ")[2].split()[0]) for line in (steps, layers)]
    assert count[1] == 2 * count[0] > 0  # of two blocks


def test_the_loss_is_attributed_to_steps_and_layers(models, text, tmp_path, monkeypatch):
    monkeypatch.setenv("ITREX_CHAT_KERNEL", "reference")  # it rounds activations on every machine
    recipe = recipes.load(str(models("qwen2")), ["quantization.head", "int4"])
    found, out = attributing.attribute(recipe, texts=[text], out=tmp_path / "out")
    assert [step.name for step in found.steps] == ["blocks", "head", "activations"]
    assert [(step.head, step.compute_dtype) for step in found.steps] == [
        ("none", "fp32"),
        ("int4", "fp32"),
        ("int4", "int8"),
    ]
    assert found.steps[1].added.low > 0  # a head of 4 bits costs, beyond doubt
    assert found.steps[2].added.value == pytest.approx(found.steps[2].kld_mean.value - found.steps[1].kld_mean.value)
    assert found.steps[2].added.value != 0
    assert [layer.number for layer in found.layers] == [0, 1]
    assert all(0 < layer.kld_mean.value < found.steps[0].kld_mean.value * 1.5 for layer in found.layers)
    assert "<svg" in (out / "attribution.html").read_text("utf-8")
    assert json.loads((out / "attribution.json").read_text("utf-8"))["kernel"] == "reference"


@pytest.mark.parametrize(
    "given, expected",
    [
        ("int4_clip:64:none", Quantization("int4_clip", 64, "none")),
        ("int8", Quantization("int8")),
        ("int4_fullrange:128", Quantization("int4_fullrange", 128)),
        ("int4_fullrange:32:int8:gptq:4.6", Quantization(algorithm="gptq", budget=4.6)),
        ("int4_fullrange::::5", Quantization(budget=5.0)),
    ],
)
def test_recipes_are_named_briefly(given, expected):
    assert sweeping.parsed(given) == expected


def test_what_is_no_recipe_is_refused():
    with pytest.raises(RunError, match="WEIGHT_DTYPE:GROUP:HEAD"):
        sweeping.parsed("int4_clip:many")
    with pytest.raises(RunError, match="WEIGHT_DTYPE:GROUP:HEAD"):
        sweeping.parsed("int4_clip:32:int8:rtn:nan")
    with pytest.raises(RecipeError, match="Did you mean int4_clip"):
        sweeping.parsed("int4_clipp:32")


def test_something_to_measure_on_must_be_named(models, capsys):
    assert sweeping.main(["--model", str(models("qwen2"))]) == 1
    assert "--text FILE" in capsys.readouterr().err


def outcome(label: str, difference: Estimate | None) -> Outcome:
    kl = Estimate(0.05 + (difference.value if difference else 0), 0.04, 0.08)
    total = Corpus(
        "all",
        8,
        1000,
        {"kld_mean": kl, "same_top": Estimate(0.9, 0.8, 0.95), "ppl_ratio": Estimate(1.0, 0.9, 1.1)},
        0.0,
    )
    return Outcome(
        label,
        Quantization(),
        total=total,
        difference=difference,
        disk_bytes=10**8,
        bits_per_weight=4.5,
        peak_memory=10**9,
        tokens_per_second=9.0,
        prefill_tokens_per_second=90.0,
        build_seconds=120.0,
    )


def test_only_what_the_interval_supports_is_said():
    outcomes = [
        outcome("a", None),
        outcome("b", Estimate(0.02, 0.01, 0.03)),
        outcome("c", Estimate(-0.02, -0.03, -0.01)),
        outcome("<d>", Estimate(0.01, -0.01, 0.03)),
        outcome("e", Estimate(0.02)),
        Outcome("f", Quantization(), "no memory"),
    ]
    assert sweep_verdict(outcomes) == [
        "Worse than a: b.",
        "Better than a: c.",
        "Not told apart from a by 1000 tokens: <d>, e.",
        "The best choice for a size on disk, by the means alone: c from 100 MB on (KL 0.0300, made in 2 min).",
    ]
    larger = dataclasses.replace(outcomes[2], label="g", disk_bytes=2 * 10**8, build_seconds=7200.0)
    better = Corpus("all", 8, 1000, larger.total.figures | {"kld_mean": Estimate(0.01)}, 0.0)
    larger = dataclasses.replace(larger, total=better, quantization=Quantization(algorithm="gptq", budget=4.6))
    [*_others, last] = sweep_verdict([*outcomes, larger])
    assert last.endswith("c from 100 MB on (KL 0.0300, made in 2 min), g from 200 MB on (KL 0.0100, made in 2.0 h).")
    assert sweep_rows([larger])[1][-3:] == ["gptq", "4.6", "2.0 h"]
    page = sweep_page("m", "fp32", outcomes, "")
    assert page.count("<svg") == 3
    assert "f: no memory" in page and "<d>" not in page
