"""Drafts in sessions and runs: which model drafts, what it may cost, and what records and reports say of it."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import tiny_models
from executors import InProcess
from run_schemas import keeps_its_schemas
from test_model_drafts import Eager

from itrex_chat import GenerationConfig as PublicConfig
from itrex_chat.artifacts.obtaining import at_hand, obtain
from itrex_chat.artifacts.store import ArtifactStore
from itrex_chat.comparison import compare_runs
from itrex_chat.engines import open_session
from itrex_chat.engines.native import drafts
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import GenerationError, RecipeError
from itrex_chat.generation import model_drafts
from itrex_chat.generation.response import Response
from itrex_chat.neuralchat.chatbot import load_chatbot
from itrex_chat.quality import measuring, passages
from itrex_chat.runs.asking import ask
from itrex_chat.runs.record import RunRecord
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.generation import GenerationConfig
from itrex_chat.settings.questions import Question, QuestionSet
from itrex_chat.settings.variant import Variant

MESSAGES = [{"role": "user", "content": "1 + 1 = ?"}]
ASKED = QuestionSet("two", "en", (Question("a", "你好"), Question("b", "1 + 1 = ?")))


@pytest.fixture
def eager(monkeypatch):
    """Drafts wherever it may, whatever the time says."""
    for name in ("length", "goes_on", "takes", "worth_reading"):
        monkeypatch.setattr(model_drafts.Payoff, name, vars(Eager)[name])


@pytest.fixture
def recipe(models):
    return recipes.load(str(models("qwen2")), ["generation.max_new_tokens", "40"])


def answered(recipe, variant="fp32", **settings) -> Response:
    config = dataclasses.replace(recipe.generation, **settings)
    return load_chatbot(recipe, variant).chat(MESSAGES, config)


def test_int4_drafts_for_fp32_where_it_is_at_hand_and_is_not_made_for_that(recipe, eager):
    plain = answered(recipe)
    assert plain.drafter == "" and not ArtifactStore().folders()
    obtain(recipe)
    drafted = answered(recipe)
    assert drafted.drafter == "int4" and drafted.drafted_tokens > 0 and drafted.token_ids == plain.token_ids
    assert answered(recipe, "bf16").drafter == "int4" and answered(recipe, "int4").drafter == ""
    assert answered(recipe, draft="none").drafter == "" and answered(recipe, prompt_lookup=True).drafter == ""


def test_a_drafter_that_is_asked_for_is_made(recipe, eager):
    plain, drafted = answered(recipe), answered(recipe, draft="int8")
    assert drafted.drafter == "int8" and drafted.token_ids == plain.token_ids
    assert [artifact.variant for artifact in ArtifactStore().whole()] == ["int8"]
    assert answered(recipe, "int4", draft="int8").drafter == ""  # it would be slower


def test_another_model_of_the_same_vocabulary_drafts(recipe, eager, tmp_path):
    small = tiny_models.standard(tmp_path / "small", "qwen2", num_hidden_layers=1)
    plain = answered(recipe)
    for variant in ("fp32", "int8"):
        drafted = answered(recipe, variant, draft=str(small))
        assert drafted.drafter == "small INT4" and drafted.drafted_tokens > 0
    assert answered(recipe, draft=str(small)).token_ids == plain.token_ids


def test_a_model_of_another_vocabulary_is_refused_and_an_unknown_one_named(recipe, models):
    with pytest.raises(RecipeError, match="another vocabulary"):
        answered(recipe, draft=str(models("qwen")))
    with pytest.raises(RecipeError, match="There is no model int5"):
        answered(recipe, draft="int5")


def test_what_drafts_cannot_be_is_said_at_once(recipe):
    with pytest.raises(GenerationError, match="choose one of them"):
        GenerationConfig(draft="int4", prompt_lookup=True)
    for value in (None, False, "", 4):
        with pytest.raises(GenerationError, match="draft is auto, none"):
            PublicConfig(draft=value)
    assert GenerationConfig(draft="none", prompt_lookup=True).prompt_lookup


def test_a_drafter_without_memory_beside_the_variant_is_left_away_with_the_numbers(recipe, eager, monkeypatch):
    obtain(recipe)
    monkeypatch.setattr(drafts, "PROGRAM", -(1 << 50))
    with open_session(recipe, "fp32") as session:
        session.ready(recipe.generation)
        assert session.facts.drafter.name == "int4" and "of memory, but" in session.facts.drafter.why
        *_pieces, response = session.stream([5, 6, 7], recipe.generation)
    assert response.drafter == ""


def test_a_damaged_artifact_drafts_nothing_and_is_left_as_it_is(recipe, eager, capfd):
    folder = obtain(recipe).artifact.folder
    weights = next(folder.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with open_session(recipe, "fp32") as session:
        session.ready(recipe.generation)
        assert "SHA-256" in session.facts.drafter.why
        *_pieces, response = session.stream([5, 6, 7], recipe.generation)
    assert response.drafter == "" and weights.read_bytes() == content and "Quantizing" not in capfd.readouterr().err


def test_an_artifact_is_found_at_hand_without_reading_a_models_files(recipe, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(recipe.source.path, tmp_path / "model"))
    copy = recipes.load(str(folder))
    assert at_hand(copy) is None
    made = obtain(copy).artifact
    assert at_hand(copy).folder == made.folder
    monkeypatch.setattr("itrex_chat.sources.digests.sha256", lambda *_given: pytest.fail("it reads the files"))
    assert at_hand(copy).folder == made.folder
    other = folder / "config.json"
    other.write_text(
        other.read_text("utf-8") + " ", "utf-8"
    )  # not known any more: nothing can be told without reading it
    assert at_hand(copy) is None


def test_scoring_loads_no_drafter(recipe, eager, monkeypatch):
    obtain(recipe)
    monkeypatch.setattr(drafts, "load_quantized", lambda *_given: pytest.fail("a drafter is loaded"))
    passage = passages.of_text("text", list(range(60)))
    measured = measuring.measure(recipe, "fp32", ["bf16"], [*passage], executor=InProcess())
    assert measured.variants[0].corpora


def test_scoring_neither_fetches_nor_makes_a_drafter_that_a_recipe_names(recipe, tmp_path):
    """Nor minds that it is not there any more: a run that was drafted by it is measured without it."""
    passage = passages.of_text("text", list(range(60)))
    for draft in ("int8", str(tmp_path / "removed.gguf")):
        drafted = dataclasses.replace(recipe, generation=dataclasses.replace(recipe.generation, draft=draft))
        measured = measuring.measure(drafted, "fp32", ["bf16"], [*passage], executor=InProcess())
        assert measured.variants[0].corpora and not ArtifactStore().folders()


def test_a_chatbot_tells_who_drafts_once_it_has_answered(recipe):
    obtain(recipe)
    chatbot = load_chatbot(recipe, "fp32")
    assert chatbot.facts()["drafter"] is None  # none is loaded for answers that nobody may want drafted
    chatbot.chat(MESSAGES)
    assert chatbot.facts()["drafter"]["name"] == "int4"


def test_memory_and_rates_are_told_without_the_drafter(recipe, eager, monkeypatch):
    obtain(recipe)
    with open_session(recipe, "fp32") as session:
        session.ready(recipe.generation)
        facts = session.facts.drafter
        assert facts.memory > facts.weight_bytes > 0 and facts.seconds > 0 and not facts.why
        monkeypatch.setattr(machine, "peak_memory", lambda process=None: 10 if process else 10**12)
        assert session.peak_memory() == 10**12 - facts.memory + 10  # the tokenizer's process


# A run.


@pytest.fixture
def run(recipe, eager, tmp_path) -> RunRecord:
    """FP32 drafted by INT4, and INT4."""
    return ask([recipe], ["int4", "fp32"], ASKED, tmp_path / "run", executor=InProcess())


def test_a_record_keeps_what_drafts_were_and_each_rate(run):
    keeps_its_schemas(run.folder)
    record = RunRecord.read(run.folder)
    drafted, plain = record.answers_of("qwen2-tiny", "fp32"), record.answers_of("qwen2-tiny", "int4")
    assert [answer.drafts for answer in plain] == [None, None]
    assert all(answer.drafts.by == "int4" and answer.drafts.places > 20 for answer in drafted)
    assert all(answer.plain_tpot == answer.drafts.plain_tpot > 0 for answer in drafted)
    assert "drafts" not in json.loads((run.folder / "answers.jsonl").read_text("utf-8").splitlines()[0])
    load = record.content.models["qwen2-tiny"].variants["fp32"].load
    assert load.drafter.name == "int4" and load.drafter.memory > 0


def test_the_agreement_is_the_same_likeliest_token_of_measure_on_the_same_answers(run, recipe):
    """Places are the tokens of the answers but the last ones, behind which nothing was drafted any more."""
    answers = run.answers_of("qwen2-tiny", "fp32")
    found = compare_runs([run.folder]).models[0].agreement("int4")
    read = [
        dataclasses.replace(passage, ids=passage.ids[: passage.first + answer.drafts.places])
        for passage, answer in zip(passages.of_answers(answers), answers)
    ]
    measured = measuring.measure(recipe, "fp32", ["int4"], read, executor=InProcess()).variants[0].corpora[0]
    same_top = measured.figures["same_top"]
    assert found.places == measured.positions > 50
    assert found.share.value == pytest.approx(same_top.value, abs=2.5 / found.places)
    assert found.share.low < found.share.value < found.share.high
    assert (found.share.low, found.share.high) == pytest.approx((same_top.low, same_top.high), abs=0.2)


def test_figures_are_those_without_drafts_and_the_drafted_rate_stands_beside_them(run):
    [model] = compare_runs([run.folder]).models
    fp32, int4 = model.figures
    plain = sorted(answer.drafts.plain_tpot for answer in run.answers_of("qwen2-tiny", "fp32"))
    assert fp32.tpot == pytest.approx(sum(plain) / 2) and fp32.tokens_per_second == 1 / fp32.tpot
    assert fp32.drafted.by == "int4" and fp32.drafted.tokens_per_second > 0 and int4.drafted is None
    assert model.ratio(int4, "seconds") is None and model.ratio(int4, "tokens_per_second") > 0


def test_runs_with_drafts_and_without_are_of_the_same_answers(recipe, eager, tmp_path):
    """They can be joined, and their specs say whether drafts were asked for."""
    first = ask([recipe], ["fp32"], ASKED, tmp_path / "first", executor=InProcess())
    without = dataclasses.replace(recipe, generation=dataclasses.replace(recipe.generation, draft="none"))
    second = ask([without], ["int4"], ASKED, tmp_path / "second", executor=InProcess())
    assert len(compare_runs([first.folder, second.folder]).models[0].figures) == 2
    assert "draft" not in first.content.spec.models[0].recipe["generation"]
    assert second.content.spec.models[0].recipe["generation"]["draft"] == "none"
    assert recipes.from_dict(second.content.spec.models[0].recipe) == without


def test_what_draft_means_for_a_variant(recipe):
    def by(variant: str, draft: str) -> str | None:
        found = drafts.choice(recipe, Variant.parse(variant), draft)
        return found and found.name

    assert [by(variant, "auto") for variant in ("fp32", "bf16", "int8", "int4")] == ["int4", "int4", None, None]
    assert [by(variant, "int4") for variant in ("fp32", "int8", "int4")] == ["int4", "int4", None]
    assert [by(variant, "none") for variant in ("fp32", "int4")] == [None, None]
    assert by("int4", str(recipe.source.path)) == "qwen2-tiny INT4"
