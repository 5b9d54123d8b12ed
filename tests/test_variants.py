"""Variants: a name means one precision and one engine, and the weights are those that it says."""

import pytest

from itrex_chat.decoder.linear import parts_of
from itrex_chat.engines import engine_of, engines, open_session
from itrex_chat.foundation.errors import EngineError, RecipeError
from itrex_chat.neuralchat.chatbot import load_chatbot
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.variant import ENGINES, ORDER, PRECISIONS, Variant, titled


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_variant_is_read_as_it_is_written(precision, engine):
    variant = Variant(precision, engine)
    assert Variant.parse(str(variant)) == variant and str(variant) in ORDER
    assert engine_of(str(variant)).name == engine


def test_the_native_engines_variants_are_called_by_their_precision_alone():
    assert [str(Variant("int4")), str(Variant("int4", "itrex"))] == ["int4", "itrex-int4"]
    assert [titled("int4"), titled("itrex-int4"), titled("online")] == ["INT4", "INT4 (ITREX)", "ONLINE"]


@pytest.mark.parametrize("name", ["int5", "itrx-int4", "itrex-", "-int4", "", "INT4", "native-int4-x"])
def test_a_name_that_is_no_variant_is_refused(name):
    with pytest.raises(RecipeError):
        Variant.parse(name)


@pytest.mark.parametrize(
    "weight_dtype, name, expected",
    [
        ("int4_clip", "int4", "int4_clip"),
        ("int4_clip", "itrex-int4", "int4_clip"),
        ("int4_fullrange", "int8", "int8"),
        ("int8", "int4", "int4_fullrange"),
        ("int4_clip", "fp32", "int4_clip"),
    ],
)
def test_a_variant_has_the_quantization_that_it_means_and_the_recipes_own_where_it_fits(weight_dtype, name, expected):
    recipe = recipes.load("smollm2-135m", ["quantization.weight_dtype", weight_dtype])
    assert Variant.parse(name).applied_to(recipe).quantization.weight_dtype == expected


@pytest.mark.parametrize("open_it", [open_session, lambda recipe, name: load_chatbot(recipe, name).session])
def test_int8_of_a_recipe_for_int4_has_int8_weights(models, open_it):
    """It had INT4 weights under the name INT8, where the caller forgot to change the recipe."""
    recipe = recipes.load(str(models("qwen2")))
    four, eight = (open_it(recipe, name) for name in ("int4", "int8"))
    assert {linear.storage for linear in four.decoder.blocks[0].linears()} == {"int4"}
    assert {linear.storage for linear in eight.decoder.blocks[0].linears()} == {"int8"}
    assert eight.facts.weight_bytes > 1.3 * four.facts.weight_bytes
    assert eight.recipe.quantization.weight_dtype == "int8" and str(eight.variant) == "int8"


@pytest.mark.parametrize(
    "name, storage, compute", [("fp32", "fp32", "fp32"), ("bf16", "bf16", "bf16"), ("int4", "int4", "int8")]
)
def test_a_matrix_says_apart_how_it_is_stored_and_what_it_computes_in(models, name, storage, compute):
    for linear in open_session(recipes.load(str(models("qwen2"))), name).decoder.blocks[0].linears():
        for part in parts_of(linear):
            assert (part.storage, part.compute) == (storage, compute)


def test_every_engine_answers_what_the_other_rooms_ask():
    assert [engine.name for engine in engines()] == list(ENGINES)
    for engine in engines():
        assert engine.told({"saved": None}) == [] and engine.build_seconds({"saved": None}) is None
    with pytest.raises(EngineError, match="has no BF16"):
        engine_of("itrex-bf16").check(Variant.parse("itrex-bf16"))
