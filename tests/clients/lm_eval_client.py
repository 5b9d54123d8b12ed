"""lm-evaluation-harness against a server: what it scores and what it is told are what this program's own ways give."""

import json
import os
import subprocess
import sys
from pathlib import Path

from asked import BASE, EXPECTED, MODEL

HERE = Path(__file__).parent


def samples(out: Path, model: str, task: str, arguments: str, *more: str) -> list[dict]:
    run = subprocess.run(
        [sys.executable, "-m", "lm_eval", "run", "--model", model, "--tasks", task, "--include_path", "."]
        + ["--model_args", arguments, "--log_samples", "--output_path", str(out), *more],
        cwd=HERE,
        capture_output=True,
        text=True,
        env=os.environ
        | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(out / "hf"), "OPENAI_API_KEY": "none"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    [file] = out.glob(f"**/samples_{task}_*.jsonl")
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_a_multiple_choice_task_is_scored_as_measure_scores_it(tmp_path):
    arguments = f"model={MODEL},base_url={BASE}/completions,tokenizer_backend=remote,num_concurrent=4"
    found = samples(tmp_path, "local-completions", "capitals", arguments)
    scored = {}
    for sample in found:
        for given, [answer] in zip(sample["arguments"].values(), sample["resps"], strict=True):
            scored[given["arg_0"], given["arg_1"]] = float(answer[0])
    expected = {(context, continuation): value for context, continuation, value in EXPECTED["likelihoods"]}
    assert scored.keys() == expected.keys() and len(expected) == 24
    worst = max(abs(scored[pair] - value) for pair, value in expected.items())
    assert worst < 1e-4
    likeliest = [
        max(range(4), key=lambda place, s=sample: expected[s["doc"]["question"], " " + s["doc"]["choices"][place]])
        for sample in found
    ]
    assert [sample["acc"] for sample in found] == [
        float(best == sample["doc"]["answer"]) for best, sample in zip(likeliest, found, strict=True)
    ]
    print(f"largest difference {worst:.2e} of {len(expected)} log-likelihoods")


def test_answers_of_chat_are_those_of_this_program(tmp_path):
    arguments = f"model={MODEL},base_url={BASE}/chat/completions,num_concurrent=2"
    found = samples(tmp_path, "local-chat-completions", "capitals_said", arguments, "--apply_chat_template")
    said = {sample["doc"]["question"]: sample["resps"][0][0] for sample in found}
    assert said == EXPECTED["said"]
