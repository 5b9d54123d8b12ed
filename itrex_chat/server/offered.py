"""Which models a server offers: what is at hand of those that were named when it started."""

from collections.abc import Sequence

from itrex_chat import sources
from itrex_chat.engines import EngineOptions
from itrex_chat.engines.preparation import prepare
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.generation.prefill import PREFILL_STEP
from itrex_chat.server.models import Model
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import Variant


def offered(recipes: Sequence[Recipe], variants: Sequence[str]) -> tuple[list[Model], dict[str, str]]:
    """The models, and the artifacts that were verified, as `Preparation.trusted`. What is missing is fetched and quantized
    now, so that no request has to wait for that.

    `variants`: those of each model; if empty, the quantized one, and FP32 where its originals are on this machine. Raises
    RunError where there is none, or two go by one name.
    """
    models, trusted = list[Model](), dict[str, str]()
    for recipe in recipes:
        names = list(variants) or _at_hand(recipe)
        tokens = PREFILL_STEP + recipe.generation.max_new_tokens
        found = prepare(recipe, [Variant.parse(name) for name in names], tokens, EngineOptions(), trusted)
        for problem in found.problems.values():
            tell(problem)
        models += [
            Model(recipe, Variant.parse(name), found.needs[name], found.artifacts.get(name))
            for name in names
            if name in found.needs
        ]
    names = [model.name for model in models]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RunError(_("Two models go by the name {name}; name one of them with --model.", name=twice))
    if not models:
        raise RunError(_("There is no model to serve; name one with --model."))
    return models, trusted


def _at_hand(recipe: Recipe) -> list[str]:
    return [str(Variant.of(recipe.quantization)), *(["fp32"] if sources.originals_at_hand(recipe) else [])]
