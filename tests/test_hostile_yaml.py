"""YAML that no recipe and no question set can mean: one sentence with the file's name, and nothing done."""

import time

import pytest

from itrex_chat.foundation.errors import ItrexChatError, QuestionSetError, RecipeError
from itrex_chat.settings import questions
from itrex_chat.settings import recipe as recipes

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi")
)
HOSTILE = [
    "2020-13-45",
    "2020-02-30 99:99:99",
    "2020-01-01",
    "0b_",
    "0x_",
    "!!int x",
    "!!float x",
    "!!int ''",
    "!!bool x",
    "!!timestamp x",
    "!!binary é",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!python/name:os.system",
    "9" * 5000,
    "1" + ":00" * 3000,
    '"\\ud800"',
    "? [a]\n: b",
    "{{a: b}: c}",
    "*nothing",
    "&a [*a]",
    "[" * 5000,
    "{a: 1, a: 2}",
    "{<<: 5}",
    "\x00",
    ".inf",
    ".nan",
    "!!null x",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_that_cannot_be_meant_is_a_sentence_in_recipe_question_set_and_option(value, tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text(f"generation:\n  temperature: {value}\n", "utf-8")
    with pytest.raises(ItrexChatError, match=r"file.yaml|temperature"):
        recipes.load(str(file))
    file.write_text(f"questions:\n  - {{id: a, text: {value} }}\n", "utf-8")
    try:
        [question] = questions.load(str(file)).questions
        assert question.text == value  # as it stands
    except QuestionSetError as error:
        assert "file.yaml" in str(error)
    with pytest.raises(ItrexChatError):
        recipes.load("smollm2-135m", ["generation.temperature", value])


def test_an_alias_bomb_is_refused_at_once(tmp_path):
    file = tmp_path / "bomb.yaml"
    file.write_text(f"{BOMB}questions: *i\n", "utf-8")
    began = time.monotonic()
    for load, error in ((recipes.load, RecipeError), (questions.load, QuestionSetError)):
        with pytest.raises(error, match="bomb.yaml.*aliases"):
            load(str(file))
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("text", ["name: a\nname: b\n", "generation:\n  seed: 1\n  seed: 2\n"])
def test_a_key_that_comes_twice_is_named(text, tmp_path):
    file = tmp_path / "twice.yaml"
    file.write_text(text, "utf-8")
    with pytest.raises(RecipeError, match=r"twice.yaml.*the key (name|seed) comes twice"):
        recipes.load(str(file))


@pytest.mark.parametrize(
    "text, number", [("1e-1", 0.1), ("1E0", 1.0), (".5", 0.5), ("5.e-1", 0.5), ("+1", 1.0), ("010", 10.0)]
)
def test_a_number_is_what_it_looks_like(text, number, tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text(f"generation:\n  temperature: {text}\n", "utf-8")
    assert recipes.load(str(file)).generation.temperature == number
    assert recipes.load("smollm2-135m", ["generation.temperature", text]).generation.temperature == number


def test_a_whole_number_may_be_written_with_an_exponent():
    assert recipes.load("smollm2-135m", ["generation.max_new_tokens", "1e3"]).generation.max_new_tokens == 1000


@pytest.mark.parametrize("text", ["1:30", "1_000", "0x10", "1e", "2020-01-01", "."])
def test_what_only_looks_like_a_number_is_none(text):
    with pytest.raises(RecipeError, match="must be a number, not"):
        recipes.load("smollm2-135m", ["generation.temperature", text])


@pytest.mark.parametrize(
    "text", ["1234567", "1e5", "no", "", "a: b", "- a", "[a", "null", '"', "2020-01-01", "*stars*", "a: b: c"]
)
def test_a_setting_that_is_a_text_is_taken_as_it_was_typed(text):
    assert recipes.load("smollm2-135m", ["chat.system", text]).chat.system == text


@pytest.mark.parametrize("text", ["010", "3.10", "1e3", "no", "null", "2020-01-01", "~", "1:30"])
def test_all_that_a_question_set_says_is_text_as_it_stands(text, tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text(f"questions:\n  - {{id: {text}, text: {text}, expected: {text}}}\n", "utf-8")
    [question] = questions.load(str(file)).questions
    assert (question.id, question.text, question.expected) == (text, text, text)


@pytest.mark.parametrize("load", [recipes.load, questions.load])
def test_a_file_in_another_encoding_is_a_sentence(load, tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text("name: 模型", "gb18030")
    with pytest.raises(ItrexChatError, match="file.yaml is not a text in UTF-8"):
        load(str(file))
