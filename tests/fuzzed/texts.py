"""YAML that users write: recipes, question sets, the values of `--set`."""

import json
from pathlib import Path
from random import Random

import yaml

from fuzzed.case import Case
from fuzzed.values import TEXTS, damaged, mutated
from itrex_chat import sources
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.foundation.places import cache_home
from itrex_chat.runs.asking import labels
from itrex_chat.runs.record import RunRecord, variants_of
from itrex_chat.settings import questions
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.variant import Variant

TOP = Path(__file__).parents[2]
PIECES = (
    *(
        "2020-13-45",
        "2020-01-01",
        "0b_",
        "0x_",
        "!!int x",
        "!!float x",
        "!!binary é",
        "!!set {a, b}",
        "!!python/name:os.system",
    ),
    *(
        "9" * 5000,
        "1" + ":00" * 3000,
        '"\\ud800"',
        "? [a]\n: b",
        "{{a: b}: c}",
        "*nothing",
        "&a [*a]",
        "[" * 3000,
        "{a: 1, a: 2}",
    ),
    *(
        "{<<: 5}",
        "\x00",
        ".inf",
        ".nan",
        "!!null x",
        "|\n  a\n b",
        ">-",
        "%YAML 9.9\n---",
        "---\n...\n---",
        "&a !!str",
        "'",
        '"\\x1b[31m"',
    ),
    *(
        "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]",
        "\t",
        "- - - -",
        "? ? ?",
        "{" * 500,
        "!<tag:yaml.org,2002:python/object:x> {}",
    ),
)
KEYS = (
    "name",
    "source.path",
    "source.hub",
    "quantization.group_size",
    "generation.temperature",
    "generation.seed",
    "chat",
    "x.y",
    "",
)


def make(random: Random, folder: Path, seeds: Path) -> Case:
    if random.random() < 0.2:
        settings = [random.choice(KEYS), random.choice((*PIECES, *TEXTS))] * random.choice((1, 1, 2))
        return Case(f"--set {settings}"[:100], lambda: _recipe(recipes.load("smollm2-135m", settings)))
    kind = random.choice(("recipes", "prompts"))
    seed = random.choice(sorted((TOP / kind).glob("*.yaml")))
    content, how = seed.read_bytes(), random.random()
    if how < 0.55:
        changed = mutated(yaml.safe_load(content), random)
        text = _dumped(changed, random)
    elif how < 0.85:
        text, at = content.decode(), random.randrange(len(content))
        lines = text.splitlines(keepends=True)
        at = random.randrange(len(lines))
        cut = lines[at].find(":") + 1
        lines[at] = random.choice(
            (lines[at][:cut] + " " + random.choice(PIECES) + "\n", lines[at] * 2, "  " + lines[at], "")
        )
        text = "".join(lines)
    else:
        text = ""
    file = folder / random.choice(("file.yaml", "模型.yaml", "a\x1b[31mb.yaml", "x.yml"))
    file.write_bytes(text.encode("utf-8", "surrogatepass") if text else damaged(content, random))
    use = (lambda: _recipe(recipes.load(str(file)))) if kind == "recipes" else (lambda: _questions(file))
    return Case(f"{seed.name} changed: {text[:60]!r}", use)


def _dumped(content: object, random: Random) -> str:
    if random.random() < 0.3:
        return json.dumps(content)
    return yaml.safe_dump(
        content, allow_unicode=random.random() < 0.7, default_flow_style=random.choice((None, True, False))
    )


def _recipe(recipe: recipes.Recipe) -> None:
    """What is done with a recipe before anything is downloaded."""
    assert recipes.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
    assert recipes.overridden(recipe, ["generation.seed", "1"]).source == recipe.source
    spec = {
        "models": [{"label": label, "recipe": one.as_dict()} for label, one in labels([recipe])],
        "variants": None,
        "questions": None,
    }
    for name in variants_of(spec, recipe.as_dict()):
        Variant.parse(name).applied_to(recipe)
    RunRecord.start(cache_home() / "runs" / "new", spec).close()
    if recipe.source.path:
        try:
            sources.resolve(recipe)
        except ItrexChatError as error:
            assert str(error)
    home = cache_home() / "sources"
    sources.at_hand(recipe)
    if recipe.source.package.name:
        assert home in sources.packages.place(recipe.source.package, home).resolve().parents


def _questions(file: Path) -> None:
    found = questions.load(str(file))
    spec = {
        "models": [],
        "variants": None,
        "questions": {
            "name": found.name,
            "language": found.language,
            "questions": [vars(q) for q in found.questions],
            "system": found.system,
        },
    }
    RunRecord.start(cache_home() / "runs" / "new", spec).close()
    assert RunRecord.read(cache_home() / "runs" / "new").content.spec.questions == found
