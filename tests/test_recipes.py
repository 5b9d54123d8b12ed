"""Recipes and question sets: what ships is valid, and what cannot be meant is named with a hint."""

import pytest

from itrex_chat.foundation.errors import ItrexChatError, QuestionSetError, RecipeError
from itrex_chat.settings import questions
from itrex_chat.settings import recipe as recipes


@pytest.mark.parametrize("name", recipes.names())
def test_every_shipped_recipe_can_be_read_and_names_a_source(name):
    recipe = recipes.load(name)
    assert recipe.name == name
    assert recipe.source.package.name or (recipe.source.modelscope and recipe.source.huggingface)
    assert recipe.languages and recipe.family


def test_the_three_families_the_embedded_model_and_newer_ones_ship():
    assert {"chatglm3-6b", "qwen-7b-chat", "baichuan2-7b-chat", recipes.EMBEDDED} < set(recipes.names())
    assert len(recipes.names()) >= 7


def test_a_recipe_survives_its_own_description():
    for name in recipes.names():
        assert recipes.from_dict(recipes.load(name).as_dict()) == recipes.load(name)


def test_settings_override_a_recipe():
    recipe = recipes.load(
        "chatglm3-6b",
        ["quantization.group_size", "128", "generation.temperature", "1", "chat.system", "你好", "languages", "[en]"],
    )
    assert recipe.quantization.group_size == 128
    assert recipe.generation.temperature == 1.0
    assert (recipe.chat.system, recipe.languages) == ("你好", ("en",))


def test_a_recipe_file_of_ones_own_works(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("source: {modelscope: me/model}\nquantization: {weight_dtype: int4_clip}\n", "utf-8")
    recipe = recipes.load(str(file))
    assert (recipe.name, recipe.quantization.weight_dtype) == ("mine", "int4_clip")


def test_a_folder_and_a_file_are_recipes_named_after_them(tmp_path):
    assert recipes.load(str(tmp_path)).source.path == str(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert recipes.load(str(tmp_path / "model.gguf")).name == "model"


def test_a_hubs_repository_is_its_recipe_or_one_with_defaults():
    assert recipes.load("ZhipuAI/chatglm3-6b").name == "chatglm3-6b"
    other = recipes.load("someone/some-model")
    assert (other.name, other.source.modelscope, other.source.huggingface) == (
        "some-model",
        *["someone/some-model"] * 2,
    )


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("quantisation: {}", "no key quantisation. Did you mean quantization"),
        ("quantization: {group_sise: 32}", "quantization.group_sise. Did you mean group_size"),
        ("quantization: {group_size: 33}", "cannot be 33"),
        ("quantization: {group_size: '32'}", "must be a whole number, not '32'"),
        ("quantization: {weight_dtype: int4}", "cannot be 'int4'"),
        ("quantization: {head: fp32}", "quantization.head cannot be 'fp32'"),
        ("quantization: {compute_dtype: fp16}", "compute_dtype cannot be 'fp16'"),
        ("quantization: 4", "must be a section"),
        ("name: [a]", "name must be a text"),
        ("languages: [de]", "languages cannot be 'de'"),
        ("source: {hub: github}", "source.hub cannot be 'github'"),
        ("source: {package: {name: x}}", "source.package"),
        ("source: {package: {name: --index-url=x, version: '1', file: a, sha256: " + "a" * 64 + "}}", "package.name"),
        ("generation: {max_new_tokens: -1}", "max_new_tokens"),
        ("- a", "must hold keys and values"),
        ("a: [", "not valid YAML"),
        ("", "must hold keys and values"),
        ("a: !!python/name:os.system", "YAML"),
        ("a: &a [x]\nb: [*a, *a]", "aliases such as"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_named(content, sentence, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(content, "utf-8")
    with pytest.raises(ItrexChatError, match=sentence):
        recipes.load(str(file))


@pytest.mark.parametrize(
    "model, sentence",
    [
        ("chatglm-6b", "Did you mean chatglm3-6b"),
        ("./nowhere", "no model"),
        ("nowhere.gguf", "no model"),
        ("a/b/c", "no model"),
        ("../up", "no model"),
        ("", "no model"),
    ],
)
def test_a_model_that_does_not_exist_is_named_with_what_does(model, sentence):
    with pytest.raises(RecipeError, match=sentence):
        recipes.load(model)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (["quantization.groupsize", "64"], "Did you mean group_size"),
        (["temperature", "1"], "Did you mean generation.temperature"),
        (["generation.do_sample", "1"], "must be true or false, not 1"),
        (["generation.seed", "1.5"], "must be a whole number, not 1.5"),
        (["quantization.group_size"], "no value"),
        (["quantization.group_size.x", "1"], "group_size must be"),
        (["", "1"], "no key"),
        (["quantization", "x"], "must be a section"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_named(settings, sentence):
    with pytest.raises(RecipeError, match=sentence):
        recipes.load(recipes.EMBEDDED, settings)


@pytest.mark.parametrize("name", questions.names())
def test_every_shipped_question_set_can_be_read(name):
    assert questions.load(name).questions


def test_the_default_questions_fit_the_models_languages():
    assert questions.default_for(("zh", "en")).language == "zh"
    assert questions.default_for(("en",)).language == "en"


def test_included_questions_come_first():
    inner, outer = questions.load("semantics-5"), questions.load("report-8")
    assert outer.questions[:5] == inner.questions and len(outer.questions) == 8


def test_a_question_set_of_ones_own_works_with_numbers_as_ids(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "system: be brief\nquestions:\n  - {id: 1, text: 你好}\n  - {id: 2, text: '2+2?', expected: 4}\n", "utf-8"
    )
    chosen = questions.load(str(file))
    assert (chosen.name, chosen.system) == ("mine", "be brief")
    assert [(q.id, q.expected) for q in chosen.questions] == [("1", ""), ("2", "4")]


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("questions: [{id: a, txt: b}]", "question 1: there is no field txt. Did you mean text"),
        ("langauge: zh", "no field langauge. Did you mean language"),
        ("questions: []", "no questions"),
        ("questions: [{id: a}]", "question 1 has no text"),
        ("questions: [{text: a}]", "question 1 has no id"),
        ("questions: [{id: a, text: ' '}]", "has no text"),
        ("questions: [a]", "must have the fields"),
        ("questions: [{id: a, text: b}, {id: a, text: c}]", "two questions have the id a"),
        ("questions: {a: b}", "questions must be a list"),
        ("questions: [{id: a, text: [b]}]", "text must be a text"),
        ("language: fr\nquestions: [{id: a, text: b}]", "language cannot be 'fr'"),
        ("[", "not valid YAML"),
        ("", "must hold keys"),
        ("includes: [nowhere]", "no question set nowhere"),
        ("questions:", "questions must be a list"),
    ],
)
def test_a_question_set_that_cannot_be_meant_is_named(content, sentence, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(content, "utf-8")
    with pytest.raises(QuestionSetError, match=sentence):
        questions.load(str(file))


def test_a_question_set_that_includes_itself_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"includes: ['{file}']\nquestions: [{{id: a, text: b}}]", "utf-8")
    with pytest.raises(QuestionSetError, match="includes itself"):
        questions.load(str(file))


def test_a_question_set_includes_what_lies_beside_it(tmp_path, monkeypatch):
    folder = tmp_path / "sets"
    (folder / "parts").mkdir(parents=True)
    (folder / "mine.yaml").write_text("includes: [parts/more.yaml]\nquestions: [{id: a, text: a}]", "utf-8")
    (folder / "parts" / "more.yaml").write_text("includes: [../last.yaml]\nquestions: [{id: b, text: b}]", "utf-8")
    (folder / "last.yaml").write_text("questions: [{id: c, text: c}]", "utf-8")
    (tmp_path / "last.yaml").write_text("questions: [{id: wrong, text: wrong}]", "utf-8")
    monkeypatch.chdir(tmp_path)
    assert [question.id for question in questions.load("sets/mine.yaml").questions] == ["c", "b", "a"]
    (folder / "last.yaml").write_text("includes: [parts/../mine.yaml]\nquestions: [{id: c, text: c}]", "utf-8")
    with pytest.raises(QuestionSetError, match="includes itself"):
        questions.load("sets/mine.yaml")
    (folder / "last.yaml").unlink()
    with pytest.raises(QuestionSetError, match=r"no question set sets/parts/../last.yaml"):
        questions.load("sets/mine.yaml")


def test_a_recipes_path_is_as_seen_from_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("source: {path: ../model.gguf}", "utf-8")
    monkeypatch.chdir(tmp_path)
    assert recipes.load("recipes/mine.yaml").source.path == str(tmp_path / "model.gguf")
    given = recipes.load("recipes/mine.yaml", ["source.path", "other.gguf"])
    monkeypatch.chdir("/")
    assert recipes.overridden(given, []).source.path == str(tmp_path / "other.gguf")


def test_a_misspelt_question_set_gets_a_hint():
    with pytest.raises(QuestionSetError, match="Did you mean semantics-5"):
        questions.load("semantics5")


def test_layers_to_leave_alone_are_checked_and_change_the_artifact(models):
    from itrex_chat.artifacts import obtain

    path = str(models("qwen2"))
    whole, kept = (
        obtain(recipes.load(path, settings)).artifact for settings in ([], ["quantization.keep_layers", "[1]"])
    )
    assert whole.manifest["key"] != kept.manifest["key"] and "keep_layers" not in whole.manifest["content"]
    assert [name for name in whole.manifest["matrices"] if name not in kept.manifest["matrices"]] == [
        name for name in whole.manifest["matrices"] if ".layers.1." in name
    ]
    assert recipes.from_dict(kept.manifest["recipe"]).quantization.keep_layers == (1,)
    with pytest.raises(RecipeError, match="layers 0 to 1"):
        obtain(recipes.load(path, ["quantization.keep_layers", "[2]"]))
    with pytest.raises(RecipeError, match="numbers of layers"):
        recipes.load(path, ["quantization.keep_layers", "[first]"])


@pytest.mark.parametrize("name", recipes.names())
def test_every_shipped_recipe_tells_what_there_is_to_choose_by(name):
    about = recipes.load(name).about
    assert about.licence and about.download and about.context
    assert about.blocks > about.embedding > 0 and 0 < about.bytes_per_token(4) < about.weight_bytes(4)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (["about.download", "-1"], "about.download cannot be -1.0"),
        (["about.context", "2000000000"], "about.context cannot be"),
        (["about.licence", "x" * 101], "at most 100 characters"),
        (["about.licens", "mit"], "Did you mean licence"),
    ],
)
def test_what_a_recipe_tells_of_its_model_is_checked(settings, sentence):
    with pytest.raises(RecipeError, match=sentence):
        recipes.load(recipes.EMBEDDED, settings)


def test_nothing_that_is_kept_depends_on_what_a_recipe_tells_of_its_model():
    told = recipes.load("chatglm3-6b", ["about.licence", "mit"])
    assert told.as_dict() == recipes.load("chatglm3-6b").as_dict() and "about" not in told.as_dict()
