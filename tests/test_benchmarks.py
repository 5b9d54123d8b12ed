"""The benchmarks' own machinery, with a tiny model and this program alone; speed itself is not tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def speed(*arguments, **variables) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, BENCHMARKS / "speed.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | variables,
    )


def test_a_run_measures_the_variants_and_writes_markdown_and_json(models, tmp_path):
    run = speed(
        "--model",
        models("qwen2"),
        "--peers",
        "--variants",
        "int4",
        "fp32",
        "--rounds",
        1,
        "--tokens",
        4,
        "--prefill",
        16,
        64,
        "--contexts",
        32,
        "--batches",
        1,
        2,
        "--quantization",
        "--out",
        tmp_path / "out",
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "out" / "speed.md").read_text("utf-8") + "\n" == run.stdout
    assert "INT4 decodes" in run.stdout and "GB/s" in run.stdout
    part = json.loads((tmp_path / "out" / "speed.json").read_text("utf-8"))["models"][0]
    int4, fp32 = (part["main"]["figures"][name] for name in ("int4", "fp32"))
    assert int4["decode"]["count"] == 1 and int4["slower"]["median"] == 1.0
    assert set(int4["prefill"]) == {"16", "64"}
    assert 0 < int4["weight_bytes"] < fp32["weight_bytes"] / 3
    assert fp32["equal_tokens"] == 4
    assert set(part["contexts"]["figures"]["int4"]["after"]) == {"32"}
    assert set(part["batches"]["figures"]["fp32"]["batches"]) == {"1", "2"}
    assert [made["peak"] > 0 for made in part["quantization"].values()] == [True]


def test_a_contestant_that_fails_is_named_with_its_reason_and_the_others_go_on(models, tmp_path):
    run = speed(
        "--model",
        models("qwen2"),
        "--peers",
        "ark",
        "--variants",
        "fp32",
        "int4",
        "--rounds",
        1,
        "--tokens",
        4,
        "--prefill",
        16,
        "--out",
        tmp_path / "out",
        ITREX_CHAT_KERNEL="nonsense",
    )
    assert run.returncode == 0, run.stderr
    assert "itrex_chat INT4 did not take part: KernelError: " in run.stdout and "nonsense" in run.stdout
    assert "| itrex_chat FP32 |" in run.stdout and "| auto-round-lib's kernels" in run.stdout


def test_an_unknown_model_is_one_sentence(tmp_path):
    run = speed("--model", "no-such-model", "--out", tmp_path)
    assert run.returncode == 1 and "no-such-model" in run.stderr and "Traceback" not in run.stderr


def test_an_environment_counts_as_made_only_when_every_step_has_succeeded(home, monkeypatch):
    from measuring.environments import Environment
    from measuring.processes import Unavailable

    broken = Environment("broken", (("install", "--no-index", "no-such-package"),))
    for _attempt in range(2):
        with pytest.raises(Unavailable, match="no-such-package"):
            broken.python()
    whole = Environment("broken", (("--version",),))
    assert whole.python() == home / "environments" / "broken" / "bin" / "python"
    (home / "environments" / "broken" / "kept").touch()
    assert whole.python().exists() and (home / "environments" / "broken" / "kept").exists()


def test_a_format_is_whole_or_not_there(models, home):
    from measuring.models import Model
    from measuring.processes import Unavailable

    model = Model(str(models("qwen2")))
    with pytest.raises(Unavailable, match="ended with code 3: no space"):
        model._format(
            "thing",
            lambda: [
                sys.executable,
                "-c",
                "import sys; print('no space'); open(sys.argv[1] + '/x', 'w'); sys.exit(3)",
                "TARGET",
            ],
        )
    assert list(model.folder.iterdir()) == []
    folder = model._format(
        "thing", lambda: [sys.executable, "-c", "import sys; open(sys.argv[1] + '/x', 'w')", "TARGET"]
    )
    assert sorted(path.name for path in folder.iterdir()) == ["made.json", "x"]
    assert model._format("thing", lambda: pytest.fail("it is there, and what it is made from is not wanted")) == folder


def test_the_dense_copy_of_a_model_is_the_same_model(models, home):
    """Also where the original is laid out otherwise."""
    from measuring.models import Model

    from itrex_chat import sources
    from itrex_chat.checkpoints import open_checkpoint

    for family in ("chatglm3", "qwen2"):
        given = open_checkpoint(sources.local(models(family)))
        copy = open_checkpoint(sources.local(Model(str(models(family))).dense()))
        assert copy.decoder == given.decoder
        for spec in given.specs():
            assert copy.tensor(spec).float().equal(given.tensor(spec).half().float()), spec.name


def test_ratios_are_taken_within_rounds():
    from measuring.figures import figures
    from measuring.rounds import Results

    def lines(tpot):
        return [
            {"kind": "load", "seconds": 1.0, "peak": 1},
            {"kind": "about", "versions": {}, "weight_bytes": 100},
            {"kind": "answer", "what": "chat", "prompt": 3, "token_ids": [1, 2], "ttft": 0.5, "tpot": tpot},
            {"kind": "memory", "peak": 2},
        ]

    class Entry:
        weight_bytes = None

    results = Results(
        "model",
        {"int4": [lines(0.1), lines(1.0), lines(0.1)], "peer": [lines(0.2), lines(2.0), lines(0.2)]},
        {"int4": Entry, "peer": Entry},
        [10.0, 20.0, 30.0],
    )
    peer = figures(results, "int4")["peer"]
    assert peer.slower.median == peer.slower.p25 == peer.slower.p75 == 2.0
    assert peer.decode.median == 5.0 and peer.achieved == 500.0 and peer.share == 500.0 / 20e9


@pytest.mark.parametrize(("readme", "options"), [("README.md", ()), ("README.zh-CN.md", ("--chinese",))])
def test_the_memory_that_the_readmes_tell_is_what_the_planner_says(readme, options):
    printed = subprocess.run(
        [sys.executable, BENCHMARKS / "memory.py", *options], capture_output=True, encoding="utf-8", check=True
    )
    assert printed.stdout.strip() in (BENCHMARKS.parent / readme).read_text("utf-8")
