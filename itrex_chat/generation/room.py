"""How long an answer may be."""

from itrex_chat.foundation.errors import GenerationError
from itrex_chat.foundation.language import _
from itrex_chat.settings.generation import GenerationConfig


def room_for(prompt: list[int], config: GenerationConfig, context: int, vocabulary: int) -> int:
    """How many tokens an answer may have in a model of `context` tokens. Raises GenerationError for a prompt it cannot take."""
    if len(prompt) >= context:
        raise GenerationError(
            _(
                "The prompt has {count} tokens, but the model takes {context} in all; shorten it.",
                count=len(prompt),
                context=context,
            )
        )
    if not prompt:
        raise GenerationError(_("The prompt is empty: neither the question nor the model's template has a token."))
    if max(prompt) >= vocabulary or min(prompt) < 0:
        raise GenerationError(
            _(
                "The tokenizer does not fit the model: it gives ids up to {largest} for a vocabulary of {count}.",
                largest=max(prompt),
                count=vocabulary,
            )
        )
    return min(config.max_new_tokens, context - len(prompt))
