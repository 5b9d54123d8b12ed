"""A model asked as the program's workers are told to: everything on disk prepared, loaded, a prompt read, some tokens decoded."""

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

from executors import InProcess

from fuzzed.values import STEERING
from itrex_chat import compare, native
from itrex_chat.foundation.harmless import encodable
from itrex_chat.jobs import protocol
from itrex_chat.jobs.job import Ask, Prepare
from itrex_chat.jobs.passage import Passage
from itrex_chat.quality import measuring
from itrex_chat.quality import record as quality_record
from itrex_chat.quality.passages import ANSWERS
from itrex_chat.runs import asking
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.questions import Question, QuestionSet
from itrex_chat.settings.recipe import Recipe
from itrex_chat.worker import tasks

TEXTS = (
    "hi",
    "你好，世界！",
    "What is it? " * 12,
    "def f(x):\n" * 40,
    STEERING + "\ud800",
    "<|im_end|><|im_start|>system</s>",
    " ",
    "",
)
SETTINGS: dict[str, tuple[str, ...]] = {
    "quantization.weight_dtype": ("int4_clip", "int8"),
    "quantization.group_size": ("64", "128"),
    "quantization.head": ("int4", "none"),
    "quantization.integers": ("stored", "new"),
    "quantization.compute_dtype": ("bf16", "fp32"),
    "quantization.keep_layers": ("[0]", "[1]"),
    "quantization.budget": ("4.6", "16", ".nan"),
    "generation.do_sample": ("true",),
    "generation.temperature": ("0.0", "1.5"),
    "generation.repetition_penalty": ("1.3",),
    "generation.prompt_lookup": ("true",),
    "chat.thinking": ("true",),
    "chat.system": ("Answer briefly.",),
    "chat.control_text": ("literal",),
}
VARIANTS = ("fp32", "fp32", "fp32", "bf16", "bf16", "int4", "int8")


def way(random: Random, quantized: bool = False) -> tuple[str, list[str], str]:
    """A variant, settings and a question."""
    settings = ["generation.max_new_tokens", str(random.choice((1, 2, 5, 20)))]
    for key in random.sample(sorted(SETTINGS), random.choice((0, 0, 1, 2, 3))):
        if not quantized or not key.startswith("quantization.") or key.endswith("compute_dtype"):
            settings += [key, random.choice(SETTINGS[key])]
    text = random.choice((*TEXTS, "".join(random.choices("abc 你好 the\n1", k=random.randint(1, 700)))))
    return random.choice(VARIANTS), settings, text


def asker(random: Random, path: Path) -> Callable[[], None]:
    """A function that asks the model in `path`, in a way that is chosen now: most take the least that there is to take."""
    level = _level(random)
    variant, settings, text = way(random)
    use = random.choices((ask, whole_run, measured), (16, 2, 1))[0]
    return lambda: use(recipes.load(str(path), settings), variant, text, level)


def ask(recipe: Recipe, variant: str, text: str, level: str = "") -> None:
    os.environ["ITREX_CHAT_INSTRUCTIONS"] = level
    tokens = recipe.generation.max_new_tokens + 128 + 2 * len(text)
    [prepared] = tasks.perform(Prepare(recipe=recipe, variants=(variant,), tokens=tokens))
    job = Ask(
        recipe=recipe,
        label=recipe.name,
        variant=variant,
        questions=(Question("a", text), Question("b", "Again: " + text)),
        generation=recipe.generation,
        needs=prepared.needs,  # type: ignore[union-attr]
        trusted=prepared.trusted,  # type: ignore[union-attr]
    )
    for event in tasks.perform(protocol.job_from(protocol.as_line(job))):  # type: ignore[arg-type]
        assert protocol.event_from(protocol.as_line(event)) == event


def whole_run(recipe: Recipe, variant: str, text: str, level: str) -> None:
    """A whole run, kept and compared."""
    os.environ["ITREX_CHAT_INSTRUCTIONS"] = level
    asked = QuestionSet("x", "en", (Question("a", encodable(text) or "x"), Question("b", "What?", "", "x")), "Answer.")
    record = asking.ask([recipe], list(dict.fromkeys(("fp32", variant))), asked, executor=InProcess())
    compare.compare([record.folder])


def measured(recipe: Recipe, variant: str, text: str, level: str) -> None:
    """What `measure` computes, on the text and on an answer."""
    os.environ["ITREX_CHAT_INSTRUCTIONS"] = level
    file = Path("text")
    file.write_text(encodable(text) * 3, "utf-8")
    passages = [Passage(ANSWERS, "a", (5, 9, 7, 5, 9), 2), Passage(ANSWERS, "b", (5, 9), 1)]
    found = measuring.measure(recipe, "fp32", [variant], passages, [file], executor=InProcess())
    quality_record.write(Path(), {recipe.name: quality_record.of(found)})
    quality_record.read(Path())


def _level(random: Random) -> str:
    """Instructions that this processor has, by a number that any processor takes the same from."""
    number = random.randrange(len(native.INSTRUCTIONS))
    return levels()[number % len(levels())]


def levels() -> list[str]:
    loaded = native.library()
    return [name for name in native.INSTRUCTIONS if loaded.itrex_choose(name.encode()) == 0]
