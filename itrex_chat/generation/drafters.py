"""Who guesses the tokens of an answer."""

from itrex_chat.decoder.model import Decoder
from itrex_chat.generation.drafting import Drafter
from itrex_chat.generation.lookup import PromptLookup
from itrex_chat.generation.model_drafts import DraftModel
from itrex_chat.settings.generation import GenerationConfig


def drafter_of(
    decoder: Decoder,
    prompt: list[int],
    config: GenerationConfig,
    room: int,
    stop_ids: frozenset[int],
    model: DraftModel | None,
) -> Drafter | None:
    """Prompt lookup where it is asked for, else `model`; nobody where a draft's logits would not be those of one token at a
    time."""
    if decoder.independent_tokens == 1:
        return None
    if config.prompt_lookup:
        return PromptLookup(prompt, stop_ids)
    return model.drafter(prompt, config, room, stop_ids) if model else None
