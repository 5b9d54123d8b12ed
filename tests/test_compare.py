"""Comparing: what differs, by how much, and how it is written down."""

import csv
import io
import json
import subprocess
from pathlib import Path

import pytest
from run_schemas import keeps_its_schemas

from itrex_chat import compare as comparing
from itrex_chat.comparison import compare
from itrex_chat.comparison.likeness import bleu, chrf, contains, equal_tokens, language_of, matches, repetition
from itrex_chat.foundation.errors import RunError
from itrex_chat.report.markdown import as_markdown
from itrex_chat.report.sentences import disturbed, provenance
from itrex_chat.report.spreadsheets import as_csv
from itrex_chat.report.tables import figure_rows
from itrex_chat.report.terminal import aligned, as_text
from itrex_chat.report.verdict import verdicts
from itrex_chat.runs.record import RunRecord

NASTY = '=1+1 | <script>alert(1)</script> & "quotes" `code` \x1b[31m *bold*\nsecond line'


def answer(variant: str, id: str, text: str, tokens: list[int], tpot: float = 0.1, **fields) -> dict:
    return {
        "id": id,
        "model": "m",
        "variant": variant,
        "text": text,
        "token_ids": tokens,
        "prompt_token_ids": [1, 2],
        "finish_reason": "stop",
        "prompt_tokens": 2,
        "new_tokens": len(tokens),
        "ttft": 2 * tpot,
        "tpot": tpot,
        "tokens_per_second": 1 / tpot,
        "prefill_tokens_per_second": 2 / tpot,
        "seconds": 1.0,
    } | fields


def record(
    folder: Path,
    answers: list[dict],
    variants: dict | None = None,
    stored: str = "float16",
    texts: tuple = ("你好", "two?"),
) -> RunRecord:
    load = {
        "seconds": 3.0,
        "disk_bytes": 100,
        "weight_bytes": 50,
        "kernel": "torch",
        "threads": 2,
        "stored": stored,
        "origin": {"kind": "local", "path": "/m"},
    }
    questions = [{"id": id, "text": text, "category": "c", "expected": ""} for id, text in zip("ab", texts)]
    variants = variants or {
        name: {"state": "done", "load": load, "peak_memory": 10**9} for name in {entry["variant"] for entry in answers}
    }
    for facts in variants.values():
        facts.setdefault("load", load)
    content = {
        "format": 1,
        "digest": "",
        "spec": {"models": [], "variants": None, "questions": None},
        "created": "2026-01-01",
        "complete": True,
        "machine": {"cpu": "CPU", "cores": 2, "memory": 8 * 10**9, "itrex_chat": "0", "packages": {"torch": "2"}},
        "models": {
            "m": {
                "question_set": "two",
                "questions": questions,
                "artifacts": {},
                "languages": ["zh"],
                "generation": {"max_new_tokens": 9, "do_sample": False},
                "variants": variants,
            }
        },
    }
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(content), "utf-8")
    (folder / "answers.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in answers), "utf-8")
    keeps_its_schemas(folder)
    return RunRecord.read(folder)


@pytest.fixture
def two(tmp_path):
    """FP32 and INT4, one answer equal and one not."""
    return record(
        tmp_path / "run",
        [
            answer("fp32", "a", "今天天气很好", [5, 6, 7]),
            answer("fp32", "b", "same", [1, 2]),
            answer("int4", "a", "今天天气不好", [5, 6, 9, 9], 0.05),
            answer("int4", "b", "same", [1, 2], 0.05),
        ],
    )


def test_the_first_divergent_token_is_where_two_answers_part():
    assert equal_tokens([1, 2, 3], [1, 2, 4]) == 2
    assert equal_tokens([1, 2], [1, 2, 3]) == 2
    assert equal_tokens([], [1]) == 0
    assert equal_tokens([1, 2], [1, 2]) == 2


def test_chrf_is_sacrebleus(tmp_path):
    reference, hypothesis = "今天天气很好，我们去公园。", "今天天气不错，我们去散步。"
    for name, text in (("reference", reference), ("hypothesis", hypothesis)):
        (tmp_path / name).write_text(text + "\n", "utf-8")
    import sys

    command = [
        sys.executable,
        "-m",
        "sacrebleu",
        str(tmp_path / "reference"),
        "-i",
        str(tmp_path / "hypothesis"),
        "-m",
        "chrf",
        "-b",
        "-w",
        "4",
    ]
    expected = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert chrf(hypothesis, reference) == pytest.approx(expected, abs=1e-4)
    assert 20 < expected < 80


@pytest.mark.parametrize(
    "reference, hypothesis, tokenizer",
    [
        ("今天天气很好，我们去公园散步吧。", "今天天气不错，我们去公园散步。", "zh"),
        ("The quick brown fox jumps over the lazy dog.", "The quick fox jumped over the lazy dog.", "13a"),
    ],
)
def test_bleu_is_sacrebleus_with_the_tokenizer_of_the_language(tmp_path, reference, hypothesis, tokenizer):
    import sys

    for name, text in (("reference", reference), ("hypothesis", hypothesis)):
        (tmp_path / name).write_text(text + "\n", "utf-8")
    command = [
        sys.executable,
        "-m",
        "sacrebleu",
        str(tmp_path / "reference"),
        "-i",
        str(tmp_path / "hypothesis"),
        "-m",
        "bleu",
        "-tok",
        tokenizer,
        "-b",
        "-w",
        "4",
    ]
    expected = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert bleu(hypothesis, reference) == pytest.approx(expected, abs=1e-4) and 20 < expected < 95


@pytest.mark.parametrize(
    "text, language",
    [
        ("今天天气很好", "zh"),
        ("可以用 quick sort 排序：\n```python\ndef f(x): return x\n```", "zh"),
        ("It is 北京.", "en"),
        ("東京へ行きます", "ja"),
        ("서울에 갑니다", "ko"),
        ("3.14!", ""),
        ("", ""),
    ],
)
def test_the_language_of_an_answer_is_told_by_its_letters(text, language):
    assert language_of(text) == language


def test_what_was_expected_is_found_whatever_its_width_case_and_punctuation():
    assert matches(" 白白喜欢明明。 ", "白白喜欢明明") and matches("ＡＢＣ", "abc.") and not matches("1/3", "13")
    assert contains("所以概率是 3/10。", "3/10") and not contains("概率是 3/5", "3/10")
    assert not contains("anything", "") and not matches("", "")


def test_repetition_counts_runs_of_tokens_that_came_before():
    assert (
        repetition([1, 2, 3, 4] * 3) == pytest.approx(5 / 9) and repetition(list(range(20))) == repetition([1, 2]) == 0
    )


def test_chrf_of_the_same_is_100_and_of_nothing_0():
    assert chrf("同", "同") == 100
    assert chrf("", "同") == 0 and chrf("同", "") == 0 and chrf("", " ") == 100


def test_figures_and_ratios_come_from_the_answers(two):
    [model] = compare([two]).models
    fp32, int4 = model.figures
    assert (model.baseline, fp32.variant, int4.variant) == ("fp32", "fp32", "int4")
    assert (fp32.new_tokens, int4.new_tokens) == (5, 6)
    assert int4.identical == 1 and int4.equal_tokens == 2
    assert model.ratio(int4, "tpot") == pytest.approx(0.5)
    assert model.ratio(int4, "tokens_per_second") == pytest.approx(2.0)
    different, same = model.pairs["int4"]
    assert (different.equal_tokens, different.identical) == (2, False) and 0 < different.chrf < 100
    assert (same.equal_tokens, same.identical, same.chrf) == (2, True, 100)


def test_where_fp32_is_missing_the_most_precise_variant_is_the_baseline(tmp_path):
    [model] = compare([record(tmp_path / "run", [answer("bf16", "a", "x", [1]), answer("int4", "a", "y", [2])])]).models
    assert model.baseline == "bf16"


def test_one_variant_alone_is_shown_without_ratios(tmp_path):
    comparison = compare([record(tmp_path / "run", [answer("int4", "a", "x", [1])])])
    assert "INT4" in as_text(comparison) and "×" not in as_text(comparison)
    assert "1 of 2 questions answered" in as_text(comparison)


def test_variants_of_several_runs_are_put_beside_each_other(tmp_path):
    runs = [
        record(tmp_path / "1", [answer("fp32", "a", "x", [1])]),
        record(tmp_path / "2", [answer("int4", "a", "x", [1])]),
    ]
    [model] = compare(runs).models
    assert [figures.variant for figures in model.figures] == ["fp32", "int4"]


def test_runs_with_different_questions_under_one_id_are_refused(tmp_path):
    runs = [
        record(tmp_path / "1", [answer("fp32", "a", "x", [1])]),
        record(tmp_path / "2", [answer("int4", "a", "x", [1])], texts=("other", "two?")),
    ]
    with pytest.raises(RunError, match="different questions under the id a"):
        compare(runs)


def test_skipped_variants_are_named_with_their_reason(tmp_path):
    variants = {"fp32": {"state": "skipped", "reason": "needs 25 GB"}, "int4": {"state": "done"}}
    text = as_text(compare([record(tmp_path / "run", [answer("int4", "a", "x", [1])], variants)]))
    assert "FP32: 0 of 2 questions answered. needs 25 GB" in text


def test_a_run_without_answers_says_why(tmp_path):
    variants = {"fp32": {"state": "skipped", "reason": "needs 25 GB"}}
    with pytest.raises(RunError, match="No answers to compare.*needs 25 GB"):
        compare([record(tmp_path / "run", [], variants)])


@pytest.mark.parametrize("stored, quantized", [("float16", False), ("GGUF Q4_K", True), ("GGUF F16", False)])
def test_weights_that_were_quantized_before_are_called_so(stored, quantized, tmp_path):
    comparison = compare([record(tmp_path / "run", [answer("fp32", "a", "x", [1])], stored=stored)])
    assert ("quantized before" in as_markdown(comparison)) == quantized
    assert stored in as_text(comparison)


def test_all_files_are_written_and_agree(two):
    comparing.compare([two.folder])
    markdown, content = (
        (two.folder / "comparison.md").read_text("utf-8"),
        (two.folder / "comparison.json").read_text("utf-8"),
    )
    assert "| FP32 | INT4 |" in markdown and "今天天气**▸**很好" in markdown
    parsed = json.loads(content)
    assert parsed["schema"] == 4 and parsed["models"][0]["figures"][1]["identical"] == 1
    rows = list(csv.DictReader((two.folder / "comparison.csv").open(encoding="utf-8")))
    assert [(row["variant"], row["id"]) for row in rows] == [("fp32", "a"), ("int4", "a"), ("fp32", "b"), ("int4", "b")]
    assert rows[1]["first_divergent_token"] == "2" and rows[3]["identical"] == "True"


def test_nothing_that_a_model_said_can_act(tmp_path):
    comparison = compare([record(tmp_path / "run", [answer("fp32", "a", NASTY, [1]), answer("int4", "a", NASTY, [1])])])
    markdown = as_markdown(comparison)
    assert "<script>" not in markdown and "\\|" in markdown and "\\*bold\\*" in markdown
    assert "\x1b" not in as_text(comparison)
    row = next(csv.DictReader(io.StringIO(as_csv(comparison))))
    assert row["text"].startswith("'=1+1")


def test_tables_line_up_with_wide_characters():
    lines = aligned([["", "FP32"], ["时间", "1"], ["time", "22"]])
    assert lines == ["      FP32", "时间     1", "time    22"]


def test_figures_have_a_row_for_everything_that_the_issue_of_quantization_is_about(two):
    titles = [row[0] for row in figure_rows(compare([two]).models[0])]
    for word in (
        "first token",
        "per token",
        "tokens per second",
        "peak memory",
        "disk",
        "load time",
        "identical",
        "chrF",
    ):
        assert any(word in title for title in titles), word


def kept_in_16_bits(folder: Path) -> RunRecord:
    """FP32 at 10 tokens per second from 2 GB of 16 bits, INT4 at 25 from 0.7 GB."""
    answers = [answer(name, id, "x", [1], 0.1 if name == "fp32" else 0.04) for name in ("fp32", "int4") for id in "ab"]
    loads = {
        "fp32": {"weight_bytes": 2 * 10**9, "storage": "float16", "wide_bytes": 4 * 10**9, "mapped_bytes": 3 * 10**9},
        "int4": {"weight_bytes": 7 * 10**8},
    }
    variants = {
        name: {"state": "done", "load": {"kernel": "native", "stored": "float16"} | load}
        for name, load in loads.items()
    }
    return record(folder, answers, variants)


def test_fp32_that_is_kept_in_16_bits_is_told_beside_what_32_would_read(tmp_path):
    comparison = compare([kept_in_16_bits(tmp_path / "run")])
    [model] = comparison.models
    rows = {title: columns for title, *columns in figure_rows(model)}
    assert rows["of it, weights in the model's own files"] == ["3.00 GB", "–", "–"]
    assert rows["weights read per token"] == ["2.00 GB", "700 MB", "0.35 ×"]
    assert rows["weights read per second"] == ["20.00 GB/s", "17.50 GB/s", "0.88 ×"]
    assert rows["FP32 in 32 bits would read"] == ["4.00 GB", "–", "0.17 ×"]
    assert rows["tokens per second that would give, at the same rate"] == ["5.0", "–", "5.00 ×"]
    assert rows["tokens per second"] == ["10.0", "25.0", "2.50 ×"]
    assert (
        "FP32 is kept in 16 bits here (float16); INT4 reads 0.35 × as much for a token, and 0.17 × of what FP32 reads in "
        "32 bits." in verdicts(model)[0].sentences
    )
    assert "FP32 is computed in 32 bits and kept in these 16 (float16)" in provenance(model)


def test_nothing_is_said_of_16_bits_where_a_record_does_not(two):
    [model] = compare([two]).models
    titles = [title for title, *_columns in figure_rows(model)]
    assert not any("32 bits" in title or "own files" in title for title in titles)
    assert "kept in" not in provenance(model)


def test_tokens_that_were_guessed_make_no_rate_of_reading(tmp_path):
    guessed = [answer("fp32", id, "x", [1, 2, 3], accepted_tokens=2, drafted_tokens=3) for id in "ab"]
    [figures] = compare([record(tmp_path / "run", guessed)]).models[0].figures
    assert figures.weight_bytes and figures.read_rate is None


def test_where_a_model_drafted_the_rate_of_reading_is_that_without_its_drafts(tmp_path):
    drafts = {"by": "int4", "places": 3, "agreed": 2, "plain_tpot": 0.5}
    drafted = [answer("fp32", id, "x", [1, 2, 3], accepted_tokens=2, drafted_tokens=3, drafts=drafts) for id in "ab"]
    [figures] = compare([record(tmp_path / "run", drafted)]).models[0].figures
    assert figures.read_rate == pytest.approx(figures.weight_bytes / 0.5)


def test_the_newest_run_is_compared_by_default(home, capsys):
    assert comparing.main([]) == 1
    assert "python -m itrex_chat.ask" in capsys.readouterr().err
    for name in ("20260101-000000", "20260102-000000"):
        record(home / "runs" / name, [answer("fp32", "a", name, [1])])
    record(home / "runs" / "20260103-000000", [], {"fp32": {"state": "failed"}})  # one without answers is passed over
    assert comparing.main([]) == 0
    assert "20260102" in capsys.readouterr().out


def test_a_speed_that_was_taken_beside_other_programs_is_marked_so(tmp_path):
    alone = [answer("fp32", id, "a", [1, 2], contention=0.01) for id in "ab"]
    beside = [answer("int4", id, "a", [1, 2], contention=0.4) for id in "ab"]
    [model] = compare([record(tmp_path / "run", [*alone, *beside])]).models
    assert [figures.contention for figures in model.figures] == [0.01, 0.4]
    assert len(disturbed(model)) == 1 and "40 %" in disturbed(model)[0] and disturbed(model)[0].startswith("INT4")
