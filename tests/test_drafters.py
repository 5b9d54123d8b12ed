"""A drafter of another kind, a decoder with a cache of its own: answers are token for token what they are without it."""

import random

import pytest
import tiny_models

from itrex_chat import sources
from itrex_chat.chat import load_tokenizer
from itrex_chat.checkpoints import open_checkpoint
from itrex_chat.decoder.model import Chunk, Decoder
from itrex_chat.engines.native.weights import load_dense
from itrex_chat.generation.loop import generate, prefill
from itrex_chat.settings.generation import GenerationConfig

PROMPT = [40, 41, 42, 43, 44, 45, 46, 47, 48, 49]
SETTINGS = {
    "greedy": {"max_new_tokens": 60},
    "penalized": {"max_new_tokens": 60, "repetition_penalty": 1.3},
    "sampled": {"max_new_tokens": 60, "do_sample": True, "temperature": 0.9, "top_p": 0.95, "seed": 7},
}


class DecoderDrafter:
    """Drafts for one answer to `prompt`: the `count` likeliest next tokens of another decoder.

    Its own cache holds the prompt and the answer as far as it is known, and while a draft is being checked also all of
    the draft but its last token.
    """

    def __init__(self, decoder: Decoder, prompt: list[int], stop_ids: frozenset[int], room: int, count: int = 4):
        self.drafted = self.accepted = 0
        self._decoder, self._stop_ids, self._count = decoder, stop_ids, count
        self._cache = decoder.new_cache(len(prompt) + room + count)
        self._behind: list[int] = []  # tokens of the answer that the cache does not hold yet
        prefill(decoder, prompt, self._cache)

    def draft(self, token: int, limit: int) -> list[int]:
        draft: list[int] = []
        self._behind.append(token)
        while len(draft) < min(limit, self._count):
            [logits] = self._decoder.read([Chunk(0, self._behind)], self._cache)
            token = int(logits[0].argmax())
            if token in self._stop_ids:
                self._behind = []
                break
            draft.append(token)
            self._behind = [token]
        return draft

    def checked(self, draft: list[int], accepted: int) -> None:
        self.drafted += len(draft)
        self.accepted += accepted
        held = len(draft) - len(self._behind)  # tokens of the draft in the cache
        if accepted < held:
            self._cache.forget(held - accepted)
        self._behind = draft[held:accepted]


class RandomDrafter:
    """Drafts that have nothing to do with the model."""

    def __init__(self, vocabulary: int, stop_ids: frozenset[int], seed: int = 0):
        self.drafted = self.accepted = 0
        self._random = random.Random(seed)
        self._tokens = [token for token in range(vocabulary) if token not in stop_ids]

    def draft(self, token: int, limit: int) -> list[int]:
        return self._random.choices(self._tokens, k=self._random.randint(0, limit))

    def checked(self, draft: list[int], accepted: int) -> None:
        self.drafted += len(draft)
        self.accepted += accepted


@pytest.fixture(scope="module")
def folder(models):
    return models("qwen2")


@pytest.fixture(scope="module")
def decoder(folder):
    decoder = load_dense(open_checkpoint(sources.local(folder)), "fp32")
    if decoder.independent_tokens == 1:
        pytest.skip("the native kernels were not built")
    return decoder


@pytest.fixture(scope="module")
def smaller(tmp_path_factory):
    """Another model with the same vocabulary."""
    folder = tmp_path_factory.mktemp("models") / "llama-smaller"
    made = tiny_models.standard(folder, "llama", num_hidden_layers=1, hidden_size=32, intermediate_size=64)
    return load_dense(open_checkpoint(sources.local(made)), "fp32")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder, "qwen2")


def answer(decoder, tokenizer, settings, drafter=None):
    *pieces, response = generate(decoder, tokenizer, PROMPT, GenerationConfig(**settings), drafter)
    return "".join(pieces), response


def same_with_and_without(decoder, tokenizer, settings, drafter):
    """The answer with a drafter, after a look at the one without."""
    plain_text, plain = answer(decoder, tokenizer, settings)
    text, response = answer(decoder, tokenizer, settings, drafter)
    assert (text, response.token_ids, response.finish_reason) == (plain_text, plain.token_ids, plain.finish_reason)
    assert (response.drafted_tokens, response.accepted_tokens) == (drafter.drafted, drafter.accepted)
    assert response.drafted_tokens > 0
    return response


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_the_model_itself_drafts_and_changes_no_token(decoder, tokenizer, settings):
    drafter = DecoderDrafter(decoder, PROMPT, tokenizer.stop_ids, 60)
    assert same_with_and_without(decoder, tokenizer, settings, drafter).accepted_tokens > 0


def test_greedy_drafts_of_the_model_itself_are_all_right(decoder, tokenizer):
    drafter = DecoderDrafter(decoder, PROMPT, tokenizer.stop_ids, 60)
    response = same_with_and_without(decoder, tokenizer, SETTINGS["greedy"], drafter)
    assert response.accepted_tokens == response.drafted_tokens


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_another_model_drafts_and_changes_no_token(decoder, smaller, tokenizer, settings):
    drafter = DecoderDrafter(smaller, PROMPT, tokenizer.stop_ids, 60)
    same_with_and_without(decoder, tokenizer, settings, drafter)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_random_drafts_change_no_token(decoder, tokenizer, settings, seed):
    drafter = RandomDrafter(decoder.config.vocab_size, tokenizer.stop_ids, seed)
    same_with_and_without(decoder, tokenizer, settings, drafter)


@pytest.mark.parametrize("right", range(5))
def test_a_drafters_cache_holds_what_was_accepted_and_nothing_else(decoder, tokenizer, right):
    """After a draft of which some tokens were right, the next one is that of a drafter that read the answer so far."""
    drafter = DecoderDrafter(decoder, PROMPT, frozenset(), 60)
    draft = drafter.draft(300, 4)
    drafter.checked(draft, right)
    fresh = DecoderDrafter(decoder, [*PROMPT, 300, *draft[:right]], frozenset(), 60)
    assert drafter.draft(301, 4) == fresh.draft(301, 4)
