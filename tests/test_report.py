"""The page: whole in one file, the same in any browser, and deaf to what models say."""

import json
import re
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from test_compare import answer, record

from itrex_chat import compare as comparing
from itrex_chat.comparison import Comparison, compare, compare_runs
from itrex_chat.foundation.harmless import for_html
from itrex_chat.foundation.language import speaking
from itrex_chat.quality import metrics
from itrex_chat.quality import record as quality_record
from itrex_chat.quality.intervals import Estimate
from itrex_chat.quality.measuring import Corpus
from itrex_chat.quality.record import AnswerScores, AnswerTokens, ModelQuality, VariantQuality
from itrex_chat.report import as_html
from itrex_chat.report.markdown import as_markdown
from itrex_chat.report.tables import figure_rows
from itrex_chat.report.texts import parted
from itrex_chat.report.verdict import (
    GPTQ_MODEL,
    GPTQ_SECONDS,
    GPTQ_SHARE,
    GPTQ_TOKENS,
    LEVELS,
    UNKNOWN,
    UNMEASURED,
    level,
    verdicts,
)
from itrex_chat.settings import recipe as recipes

NASTY = '<script>alert(1)</script> & "quotes" \u202e abc </td></style><img src=x onerror=alert(2)> {{ 7 * 7 }} \x00\x1b[31m 👩‍👩‍👧'


def corpus(name: str, positions: int, kl: float, passages: int = 8, seed: int = 0) -> Corpus:
    generator = np.random.default_rng(seed)
    found = metrics.Positions(
        np.arange(positions) * passages // positions,
        kl * generator.exponential(size=positions),
        np.zeros(positions),
        -generator.exponential(size=positions),
        -generator.exponential(size=positions),
        (generator.random(positions) < 0.9).astype(float),
    )
    return Corpus(name, passages, positions, metrics.estimates(found), 0.0)


def measured(kl: float = 0.08, positions: int = 2000) -> ModelQuality:
    scores = {"a": AnswerScores([0.5, 0.25, 0.9], [0.01, 2.0, 0.2])}
    return ModelQuality(
        "fp32",
        10**6,
        {
            "int4": VariantQuality([corpus("answers", 60, kl), corpus("book <b>.txt", positions, kl)], scores),
            "bf16": VariantQuality([corpus("answers", 60, kl / 100)], {}),
            "int8": VariantQuality([], {}, "it needs 25 GB"),
        },
        {"a": AnswerTokens(["<i>", "好", ""], [0.9, 0.8, 0.7])},
        "python -m itrex_chat.measure --text 'book <b>.txt'",
    )


@pytest.fixture
def run(tmp_path) -> Path:
    """FP32, BF16 and INT4 with hostile answers, measured."""
    answers = [
        answer(variant, id, text, tokens, tpot)
        for variant, tpot in (("fp32", 0.2), ("bf16", 0.12), ("int4", 0.05))
        for id, text, tokens in (
            ("a", f"=1+1 {variant} {NASTY}" * 3, [5, 6, len(variant) + ord(variant[0])]),
            ("b", "今天天气很好，" * 20, [1, 2]),
        )
    ]
    made = record(tmp_path / "run", answers, texts=(NASTY, "two?"))
    quality_record.write(made.folder, {"m": measured()})
    return made.folder


def test_what_a_model_said_is_shown_and_cannot_act():
    page = str(for_html(NASTY))
    assert "<script" not in page and "<img" not in page and "</style" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;quotes&#34;" in page
    assert "\u202e" not in page and ">U+202E</span>" in page and "\x00" not in page and "U+001B" in page
    assert "👩‍👩‍👧" in page and "{{ 7 * 7 }}" in page


def test_the_mark_stands_where_two_answers_part():
    assert re.sub("<[^>]+>", "", str(parted("ab<c", "ab<d"))) == "ab&lt;▸c"
    assert str(parted("e\u0301x", "e\u0300x")).startswith("<mark>")  # not between a letter and its accent


def test_no_hostile_text_reaches_the_page_unescaped(run):
    page = as_html(compare_runs([run]))
    assert page.count("<script") == page.count("<img") == page.count("onerror=alert(2)>") == 0
    assert "\u202e" not in page and "book <b>" not in page and "{{ 7 * 7 }}" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page and "url(" not in page


def test_csv_cells_that_look_like_formulas_are_texts(run):
    comparing.compare([run])
    for name in ("comparison.csv", "comparison-figures.csv"):
        for line in (run / name).read_text("utf-8").splitlines():
            assert not re.search(r'(^|,)"?[=+@]', line)


def test_the_json_keeps_its_schema(run):
    comparing.compare([run])
    content = json.loads((run / "comparison.json").read_text("utf-8"))
    schema = json.loads(resources.files("itrex_chat.comparison").joinpath("schema.json").read_text("utf-8"))
    jsonschema.validate(content, schema)
    assert content["schema"] == 4
    figure = content["models"][0]["quality"]["variants"]["int4"]["corpora"][1]["figures"]["kld_mean"]
    assert figure["low"] < figure["value"] < figure["high"]
    content["models"][0]["figures"][0]["ttft"] = "soon"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)


def test_an_interrupted_run_says_what_is_missing(tmp_path):
    made = record(tmp_path / "run", [answer("fp32", "a", "x", [1])], {"fp32": {"state": "asking"}})
    content = json.loads((made.folder / "run.json").read_text("utf-8"))
    recipe = {"quantization": {"weight_dtype": "int4_fullrange"}}
    content |= {
        "complete": False,
        "spec": {
            "variants": None,
            "questions": None,
            "models": [{"label": "m", "recipe": recipe}, {"label": "later", "recipe": recipe}],
        },
    }
    (made.folder / "run.json").write_text(json.dumps(content), "utf-8")
    with (made.folder / "answers.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "b", "model": "m", "vari')
    comparison = comparing.compare([made.folder / "answers.jsonl"])
    for text in (as_html(comparison), (made.folder / "comparison.md").read_text("utf-8").replace("\\", "")):
        assert "FP32: 1 of 2 questions answered. The run was interrupted" in text
        assert "INT4: 0 of 2 questions answered. The run was interrupted" in text
        assert "later: no answers yet" in text


# The verdict's rules.


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0.004, 0.006, ("none", "none")),
        (0.02, 0.03, ("little", "little")),
        (0.06, 0.1, ("noticeable", "noticeable")),
        (0.3, 0.5, ("heavy", "heavy")),
        (0.04, 0.06, ("little", "noticeable")),
        (0.009, 0.06, (UNKNOWN, UNKNOWN)),
        (0.02, 0.09, (UNKNOWN, UNKNOWN)),
        (None, None, (UNKNOWN, UNKNOWN)),
    ],
)
def test_the_whole_interval_decides_what_is_said(low, high, expected):
    figures = {"kld_mean": Estimate((low or 0.05) * 1.1, low, high)}
    assert level(Corpus("t", 8, 2000, figures, 0.0)) == expected
    assert level(Corpus("t", 8, 399, figures, 0.0)) == (UNKNOWN, UNKNOWN)


def said(quality: ModelQuality | None, tmp_path, answers: int = 1) -> str:
    given = [
        answer(variant, id, f"{variant} {id}", [1, len(variant)], tpot)
        for id in "ab"[:answers]
        for variant, tpot in (("fp32", 0.2), ("int4", 0.1))
    ]
    made = record(tmp_path / f"run{len(list(tmp_path.iterdir()))}", given)
    if quality:
        quality_record.write(made.folder, {"m": quality})
    [verdict] = verdicts(compare([made]).models[0])
    assert verdict.level in (*LEVELS, UNKNOWN, UNMEASURED)
    return verdict.text


def test_the_verdict_is_drawn_from_the_longest_text_and_says_how_sure_it_is(tmp_path):
    text = said(measured(0.08), tmp_path)
    assert "noticeably" in text and "book <b>.txt" in text and "2000 places" in text
    assert "too few answers to tell its speed" in text
    assert "hardly at all" in said(measured(0.004), tmp_path) and "heavily" in said(measured(0.6), tmp_path)


def test_few_tokens_or_none_are_too_few_to_tell(tmp_path):
    assert "200 tokens (book <b>.txt) are too few to tell" in said(measured(0.08, 200), tmp_path)
    assert "was not measured" in said(None, tmp_path)


def test_the_verdict_speaks_chinese(tmp_path):
    with speaking("zh"):
        text = said(measured(0.08), tmp_path)
    assert "INT4 对模型预测的影响明显" in text and ". " not in text


def quantized_by(run: Path, *settings: str) -> Comparison:
    """The comparison of a run whose recipe says so of its quantization."""
    content = json.loads((run / "run.json").read_text("utf-8"))
    recipe = recipes.load(recipes.EMBEDDED, [*settings]).as_dict()
    content["spec"]["models"] = [{"label": "m", "recipe": recipe}]
    statistics = {"weights": 9, "bytes_after": 5, "seconds": 1.0, "linear": {"INT4 G64": 20, "INT8 G64": 4}}
    content["models"]["m"]["artifacts"] = {"int4": {"folder": "/a", "bytes": 5, "statistics": statistics}}
    (run / "run.json").write_text(json.dumps(content), "utf-8")
    return compare_runs([run])


def plain(comparison: Comparison) -> str:
    """The Markdown without what makes its signs harmless."""
    return as_markdown(comparison).replace("\\", "")


def test_a_notable_loss_by_rounding_to_nearest_comes_with_what_another_algorithm_lost(run):
    found = quantized_by(run)
    assert found.models[0].figures[-1].algorithm == "rtn"
    sentence = f"GPTQ (--set quantization.algorithm gptq) has the same bytes and speed, and lost {GPTQ_SHARE} × as much"
    assert sentence in plain(found) and "GPTQ (--set" in as_html(found)
    with speaking("zh"):
        assert "GPTQ（--set quantization.algorithm gptq）" in plain(found)
    assert "GPTQ (--set" not in plain(quantized_by(run, "quantization.algorithm", "gptq"))
    assert "GPTQ (--set" not in plain(quantized_by(run, "quantization.integers", "stored"))
    quality_record.write(run, {"m": measured(0.004)})
    assert "GPTQ (--set" not in plain(quantized_by(run))


def test_what_a_verdict_says_of_another_algorithm_is_what_the_documents_say():
    document = (Path(__file__).parents[1] / "docs" / "quality.md").read_text("utf-8")
    [row] = [line for line in document.splitlines() if line.startswith("| `gptq` |") and "%" in line]
    [before] = [
        line for line in document.splitlines() if line.startswith(GPTQ_MODEL) and f"{GPTQ_TOKENS} tokens" in line
    ]
    assert f", {GPTQ_SHARE} ×" in row and f"{GPTQ_SECONDS} s |" in row and before


def test_a_report_says_what_found_the_integers_and_what_a_budget_chose(run):
    settings = ("quantization.algorithm", "gptq", "quantization.budget", "4.6")
    rows = figure_rows(quantized_by(run, *settings).models[0])
    assert ["integers found by", "–", "–", "gptq, budget of 4.6 bits", "", ""] in rows
    assert ["matrices", "–", "–", "20 × INT4 G64, 4 × INT8 G64", "", ""] in rows
    assert not any(row[0] == "matrices" for row in figure_rows(quantized_by(run).models[0]))


# The browser.


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [360, 1400])
def test_the_page_opens_without_errors_or_requests_and_fits(browser, run, width, language):
    with speaking(language):
        comparing.compare([run])
    page = run / "comparison.html"
    for dark in (False, True):
        browser.open(page, width, dark)
        assert browser.requests() == [page.as_uri()] and browser.console() == []
        assert browser.value("document.documentElement.scrollWidth") == width
        assert browser.value("document.scripts.length") == browser.value("document.images.length") == 0
        assert browser.value("document.documentElement.lang") == {"en": "en", "zh": "zh-CN"}[language]
        shade = int(re.search(r"\d+", browser.value("getComputedStyle(document.body).backgroundColor"))[0])
        assert (shade < 60) == dark
    heading = browser.value("document.querySelector('h1').innerText")
    assert heading == {"en": "What quantization costs and gives", "zh": "量化的代价与收益"}.get(language)
    said = browser.value("document.querySelector('.said').textContent")
    assert '<script>alert(1)</script> & "quotes" U+202E abc </td></style><img src=x onerror=alert(2)>' in said
    assert browser.value(
        "[...document.querySelectorAll('svg')].every(e => e.getBoundingClientRect().width > 150 "
        "|| e.closest('details:not([open])'))"
    )


def test_the_first_thing_on_the_page_is_the_verdict(browser, run):
    comparing.compare([run])
    browser.open(run / "comparison.html", 360)
    top = browser.value("document.querySelector('.verdict .badge + p').getBoundingClientRect().top")
    assert top < 500 and browser.value("document.querySelector('main').firstElementChild.className") == "verdicts"
