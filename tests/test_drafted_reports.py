"""What reports say of drafts: agreement with its interval and by question, rates with drafts and without."""

import csv
import io
import json
from importlib import resources

import jsonschema
import pytest
from test_compare import answer, record

from itrex_chat import compare as comparing
from itrex_chat.comparison import compare, gate
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import speaking
from itrex_chat.report import as_html
from itrex_chat.report.markdown import as_markdown
from itrex_chat.report.spreadsheets import as_csv, figures_csv
from itrex_chat.report.tables import figure_rows
from itrex_chat.report.terminal import as_text
from itrex_chat.report.verdict import verdicts

SENTENCE = "FP32 would have chosen INT4's next token at 90.0 % (31.2 to 99.4 %) of 200 places in its answers."


def drafts(by: str = "int4", places: int = 100, agreed: int = 90, plain_tpot: float | None = 0.4) -> dict:
    return {"by": by, "places": places, "agreed": agreed, "plain_tpot": plain_tpot}


def run(folder, by: str = "int4", variants: tuple[str, ...] = ("int4",), agreed: tuple[int, int] = (93, 87)):
    """FP32 drafted, twice as fast as without, and others."""
    answers = [
        answer("fp32", id, text, [5, 6, 7], 0.2, accepted_tokens=2, drafted_tokens=2, drafts=drafts(by, agreed=count))
        for id, text, count in (("a", "今天天气很好", agreed[0]), ("b", "same", agreed[1]))
    ]
    answers += [answer(variant, id, "other", [5, 9], 0.1) for variant in variants for id in "ab"]
    return record(folder, answers)


@pytest.fixture
def comparison(tmp_path):
    return compare([run(tmp_path / "run")])


def test_each_report_says_how_often_the_variants_agree_and_at_which_question(comparison):
    for text in (as_text(comparison), as_html(comparison), as_markdown(comparison).replace("\\", "")):
        text = text.replace("&#39;", "'")
        assert SENTENCE in text
        assert "FP32 would have chosen INT4's next token at 93 of 100 places" in text
        assert "FP32 would have chosen INT4's next token at 87 of 100 places" in text
        assert "FP32: drafted by INT4 5.0 tokens per second instead of 2.5 (2.00 ×), and the same answers." in text
        assert "90.0 % [31.2, 99.4 %] of 200" in text.replace("<small>", " ").replace("</small>", "")
    [verdict] = verdicts(comparison.models[0])
    assert SENTENCE in verdict.sentences and verdict.sentences[0].startswith("What INT4 costs was not measured")


def test_rates_and_ratios_are_those_without_drafts(comparison):
    rows = {row[0]: row[1:] for row in figure_rows(comparison.models[0])}
    assert rows["tokens per second"] == ["2.5", "10.0", "4.00 ×"]
    assert rows["time for all answers"][2] == "–" and rows["tokens by drafts"] == ["67 %", "–", "–"]
    assert "2.5 (5.0 with drafts) → 10.0 tokens/s" in as_text(comparison)
    [verdict] = verdicts(comparison.models[0])
    assert not any("×" in sentence and "2.00" in sentence for sentence in verdict.sentences)


def test_the_interval_counts_answers_and_not_tokens(tmp_path):
    apart = compare([run(tmp_path / "apart", agreed=(100, 60))]).models[0].agreement("int4").share
    alike = compare([run(tmp_path / "alike", agreed=(80, 80))]).models[0].agreement("int4").share
    assert apart.value == alike.value == 0.8
    assert apart.high - apart.low > 1.5 * (alike.high - alike.low)


def test_another_models_drafts_are_told_apart_from_the_variants(tmp_path):
    comparison = compare([run(tmp_path / "run", by="small INT4")])
    [model] = comparison.models
    assert model.agreement("int4") is None
    text = as_text(comparison)
    assert "FP32: drafted by small INT4 5.0 tokens per second" in text
    assert "FP32 would have chosen small INT4's next token at 90.0 % (31.2 to 99.4 %) of 200 places" in text
    assert "INT4's next token at 93" not in text
    rows = {row[0]: row[1:] for row in figure_rows(model)}
    assert "next tokens that FP32 would have chosen" not in rows


def test_a_run_without_the_drafters_answers_tells_of_it_too(tmp_path):
    assert SENTENCE in as_text(compare([run(tmp_path / "run", variants=())]))


def test_csv_and_json_have_the_figures(comparison, tmp_path):
    first, *_rest = csv.DictReader(io.StringIO(as_csv(comparison)))
    assert (first["drafter"], first["places"], first["agreed"], first["plain_tpot"]) == ("int4", "100", "93", "0.4")
    assert {
        "figure": "agreement",
        "value": "0.9",
        "positions": "200",
        "variant": "int4",
        "corpus": "answers",
    }.items() <= (next(csv.DictReader(io.StringIO(figures_csv(comparison)))).items())
    comparing.compare([tmp_path / "run"])
    content = json.loads((tmp_path / "run" / "comparison.json").read_text("utf-8"))
    schema = json.loads(resources.files("itrex_chat.comparison").joinpath("schema.json").read_text("utf-8"))
    jsonschema.validate(content, schema)
    assert content["models"][0]["figures"][0]["drafted"]["share"]["value"] == 0.9


def test_the_gate_knows_the_agreement_and_its_interval(comparison, tmp_path):
    fails = lambda text: gate.failures(comparison, [gate.parse(text)])
    assert fails("agreement<0.91") and not fails("agreement<0.9")
    assert fails("agreement.low<0.8") and not fails("agreement.high<0.95")
    other = compare([run(tmp_path / "other", by="small INT4")])
    with pytest.raises(RunError, match="INT4 drafted no answer of m FP32"):
        gate.failures(other, [gate.parse("agreement<0.9")])


def test_drafts_that_were_never_read_say_nothing(tmp_path):
    answers = [answer("fp32", "a", "x", [1], 0.2, drafts=drafts(places=0, agreed=0, plain_tpot=None))]
    comparison = compare([record(tmp_path / "run", [*answers, answer("int4", "a", "x", [1])])])
    assert comparison.models[0].agreement("int4") is None
    text = as_text(comparison)
    assert "INT4 drafts" not in text and "next token" not in text and comparison.models[0].figures[0].drafted is None


def test_chinese_readers_are_told_too(comparison):
    with speaking("zh"):
        text = as_text(comparison)
    assert "在其回答的 200 处中，FP32 也会选 INT4 的下一个 token 的占 90.0 %（31.2 至 99.4 %）。" in text
    assert "由 INT4 起草，每秒 5.0 个 token，而不是 2.5 个（2.00 ×），回答相同。" in text
