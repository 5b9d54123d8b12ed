"""The format of keys and values as a setting: where it reaches, what it changes, what knows it, and what it costs."""

import dataclasses
import json

import pytest
from executors import InProcess, Watched
from test_compare import answer as answered
from test_compare import record

from itrex_chat import GenerationConfig, PipelineConfig, RtnConfig, build_chatbot
from itrex_chat import measure as measuring_verb
from itrex_chat.artifacts import obtain
from itrex_chat.comparison import compare, compare_runs
from itrex_chat.decoder import pages
from itrex_chat.decoder.kv_cache import KVCache
from itrex_chat.engines import engine_of
from itrex_chat.engines.native import session as native_session
from itrex_chat.engines.on_disk import OnDisk
from itrex_chat.foundation.errors import EngineError, RecipeError, RunError
from itrex_chat.foundation.language import speaking
from itrex_chat.quality import attribution, measuring, scoring
from itrex_chat.quality import record as quality_record
from itrex_chat.quality.store import digest
from itrex_chat.report.tables import figure_rows
from itrex_chat.runs import asking
from itrex_chat.settings import kv_cache, questions
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.engine_options import EngineOptions
from itrex_chat.settings.variant import Variant, titled

INT8 = ["kv_cache.format", "int8"]
ASKED = questions.QuestionSet("two", "zh", (questions.Question("a", "你好"), questions.Question("b", "What is it?")))


@pytest.fixture
def recipe(models):
    return recipes.load(str(models("qwen2")), ["generation.max_new_tokens", "12", "generation.draft", "none"])


def with_int8(recipe, format="int8"):
    return dataclasses.replace(recipe, kv_cache=dataclasses.replace(recipe.kv_cache, format=format))


def test_the_formats_are_those_that_pages_have():
    assert tuple(pages.FORMATS) == kv_cache.FORMATS


def test_a_recipe_says_how_the_quantized_variants_keep_them_and_fp32_is_left_as_it_is():
    recipe = recipes.load("qwen-7b-chat", INT8)
    formats = {name: Variant(name).cache_format(recipe) for name in ("int4", "int8", "fp32", "bf16")}
    assert formats == {"int4": "int8", "int8": "int8", "fp32": "fp32", "bf16": "fp32"}
    assert recipes.from_dict(recipe.as_dict()) == recipe
    assert "kv_cache" not in recipes.load("qwen-7b-chat").as_dict()  # runs of before go on
    with pytest.raises(RecipeError, match="kv_cache.format"):
        recipes.load("qwen-7b-chat", ["kv_cache.format", "int4"])


def test_a_chatbot_keeps_keys_and_values_as_it_is_told_in_a_pool_of_as_many_bytes(models, monkeypatch):
    monkeypatch.setattr(native_session, "left", lambda recipe, variant: 2 * 150_000)
    counts = {}
    for name in ("fp32", "int8"):
        chatbot = build_chatbot(PipelineConfig(str(models("qwen2")), RtnConfig(), kv_cache=name))
        chatbot.predict("你好", config=GenerationConfig(max_new_tokens=4))
        pool = chatbot.session.scheduler().pages
        assert pool.kind == name and 0 <= 150_000 - pool.memory.nbytes < pages.page_bytes(pool.config, name)
        counts[name] = pool.count
        facts = chatbot.facts()
        assert (facts["cache_format"], facts["cache_bytes"]) == (name, KVCache.bytes_per_token(pool.config, name))
        chatbot.close()
    assert counts["fp32"] * 3 <= counts["int8"]
    with pytest.raises(RecipeError, match="kv_cache"):
        PipelineConfig(str(models("qwen2")), kv_cache="int4")


def test_the_plan_of_memory_knows_the_format(recipe):
    found, engine = OnDisk(artifact=obtain(recipe).artifact), engine_of("int4")
    plans = {
        name: engine.memory(found, with_int8(recipe, name), Variant("int4"), 5000).least for name in kv_cache.FORMATS
    }
    each = {name: 5000 * KVCache.bytes_per_token(found.decoder, name) for name in kv_cache.FORMATS}
    assert plans["fp32"] - plans["fp16"] == each["fp32"] - each["fp16"] > 0
    assert plans["fp16"] - plans["int8"] == each["fp16"] - each["int8"] > 0


def test_a_batch_gets_the_tokens_of_each_question_alone_and_the_record_names_the_format(recipe, tmp_path):
    runs = [
        asking.ask(
            [with_int8(recipe)], ["int4", "fp32"], ASKED, tmp_path / str(batch), executor=InProcess(), batch=batch
        )
        for batch in (1, 2)
    ]
    one, two = ({(a.variant, a.id): a.token_ids for a in run.answers} for run in runs)
    assert one == two and len(one) == 4
    loads = {name: run.load for name, run in runs[0].content.models["qwen2-tiny"].variants.items()}
    assert (loads["int4"].cache_format, loads["fp32"].cache_format) == ("int8", "fp32")
    assert loads["int4"].cache_bytes < loads["fp32"].cache_bytes / 2
    [model] = compare(runs[:1]).models
    rows = {row[0]: row[1:] for row in figure_rows(model)}
    assert rows["keys and values in"][:2] == ["FP32", "INT8"] and "keys and values, each 1,000 tokens" in rows
    with speaking("zh"):
        assert "键值缓存格式" in {row[0] for row in figure_rows(model)}


def test_a_run_does_not_go_on_in_another_format(recipe, tmp_path):
    asking.ask([recipe], ["int4"], ASKED, tmp_path / "run", executor=InProcess())
    with pytest.raises(RunError, match="holds another run .other models, questions or settings."):
        asking.ask([with_int8(recipe)], ["int4"], ASKED, tmp_path / "run", executor=InProcess())


def test_runs_whose_formats_differ_are_not_joined(tmp_path):
    def run(name: str, variant: str, kept: dict) -> object:
        folder = record(tmp_path / name, [answered(variant, "a", "x", [1])]).folder
        content = json.loads((folder / "run.json").read_text("utf-8"))
        recipe = recipes.load("qwen-7b-chat").as_dict() | kept
        content["spec"]["models"] = [{"label": "m", "recipe": recipe}]
        (folder / "run.json").write_text(json.dumps(content), "utf-8")
        return folder

    kept = {"kv_cache": {"format": "int8", "dense": "fp32"}}
    old, new, dense = run("old", "int4", {}), run("new", "int4", kept), run("dense", "fp32", {})
    with pytest.raises(RunError, match="int4 kv_cache fp32/int8"):
        compare_runs([old, new])
    assert len(compare_runs([dense, new]).models[0].figures) == 2  # FP32 is the same in both


def test_the_keys_of_predictions_are_those_of_before_and_another_format_has_its_own(recipe):
    found = OnDisk(artifact=obtain(recipe).artifact)
    reference = scoring.reference_key(recipe, "fp32", found)
    files = dict(sorted(found.artifact.manifest["source"]["files"].items()))
    content = {"source": files, "variant": "fp32", "top": 256, "samples": 32}
    assert reference == digest(content | scoring._numerics())
    keys = {name: scoring.scores_key(reference, with_int8(recipe, name), "int4", found) for name in kv_cache.FORMATS}
    as_before = {"reference": reference, "variant": scoring._content(recipe, "int4", found)}
    assert keys["fp32"] == digest(as_before | scoring._numerics()) and len(set(keys.values())) == 3
    assert scoring.reference_key(with_int8(recipe), "fp32", found) == reference
    assert scoring.reference_key(recipe.keeping("int8"), "fp32", found) != reference


def test_what_each_format_adds_is_measured_beside_the_kept_predictions(recipe, tmp_path, text, capsys, monkeypatch):
    monkeypatch.setattr(measuring, "LocalExecutor", InProcess)
    run = asking.ask([recipe], ["fp32", "int4"], ASKED, tmp_path / "run", executor=InProcess())
    command = [str(run.folder), "--text", str(text), "--tokens", "200", "--variants", "fp32,int4"]
    assert measuring_verb.main([*command, "--kv-cache", "fp16,int8"]) == 0
    told = capsys.readouterr().out
    assert "INT4, KV INT8" in told and "what this format of keys and values adds" in told
    found = quality_record.read(run.folder)["qwen2-tiny"].variants
    assert {name: variant.cache_format for name, variant in found.items()} == {
        "fp32": "fp32",
        "int4": "fp32",
        **{f"{name}+kv-{kept}": kept for kept in ("fp16", "int8") for name in ("fp32", "int4")},
    }
    means = {name: variant.corpora[-1].figures["kld_mean"].value for name, variant in found.items()}
    assert means["fp32"] == 0 < means["fp32+kv-fp16"] < means["fp32+kv-int8"] < means["int4"]
    added = found["int4+kv-int8"].corpora[-1].figures["kld_added"].value
    assert added == pytest.approx(means["int4+kv-int8"] - means["int4"]) and added != 0
    [model] = compare([run]).models
    assert model.quality.variants["int4+kv-int8"].cache_format == "int8"
    executor = Watched()
    measuring.measure(recipe, "fp32", ["int4"], [], [text], 200, executor)
    assert [job[0] for job in executor.done()] == ["plan_scoring"]  # all of it is kept
    with speaking("zh"):
        assert titled("int4+kv-int8") == "INT4，KV INT8"
    assert measuring_verb.main([*command, "--kv-cache", "int4"]) == 1


def test_the_last_step_of_an_attribution_are_keys_and_values(recipe, text):
    steps, measured = attribution.steps(with_int8(recipe), "fp32", [], [text], 200, InProcess())
    assert [(step.name, step.cache_format) for step in steps][-2:] == [("activations", "fp32"), ("kv_cache", "int8")]
    assert steps[-1].added.value == pytest.approx(steps[-1].kld_mean.value - steps[-2].kld_mean.value)
    assert measured.variants[0].cache_format == "fp32"


def test_itrex_is_asked_for_no_format(recipe):
    with pytest.raises(EngineError, match="cannot keep keys and values in int8.*ask the native engine"):
        engine_of("itrex-int4").on_disk(with_int8(recipe), Variant.parse("itrex-int4"), EngineOptions())
