"""How far models' predictions are from the 16-bit model's, by this program's own measure, on the positions that llama.cpp scores."""

import math
from functools import cached_property

import numpy as np
from tqdm import tqdm

from itrex_chat.jobs.passage import Passage
from itrex_chat.neuralchat.chatbot import load_chatbot
from itrex_chat.quality import metrics, scoring
from itrex_chat.quality.intervals import Estimate, student
from itrex_chat.quality.metrics import Positions
from itrex_chat.settings.recipe import Recipe


def passage(corpus: str, number: int, ids: list[int]) -> Passage:
    """A window whose second half is predicted but for the half's first token, as llama-perplexity does it."""
    return Passage(corpus, f"{corpus} {number}", tuple(ids), len(ids) // 2 + 1)


class Reference:
    """The 16-bit model's predictions on passages of several texts."""

    def __init__(self, recipe: Recipe, passages: list[Passage]):
        self._recipe, self._passages = recipe, passages

    @cached_property
    def _kept(self) -> list[dict[str, np.ndarray]]:
        decoder = load_chatbot(self._recipe, "fp32").decoder
        return [scoring.reference_of(decoder, part) for part in tqdm(self._passages, "the 16-bit model", leave=False)]

    def found(self, recipe: Recipe, variant: str, title: str) -> dict[str, Positions]:
        """Where a variant of a model is, by corpus."""
        kept_ones, decoder = self._kept, load_chatbot(recipe, variant).decoder
        scores = [
            scoring.score_of(decoder, part, kept)
            for part, kept in zip(tqdm(self._passages, title, leave=False), kept_ones)
        ]
        result = {}
        for corpus in dict.fromkeys(part.corpus for part in self._passages):
            places = [place for place, part in enumerate(self._passages) if part.corpus == corpus]
            result[corpus] = metrics.positions(
                [kept_ones[place] for place in places], [scores[place] for place in places]
            )
        return result


def by_window(found: Positions) -> list[float]:
    """The mean divergence of each window."""
    return (np.bincount(found.passages, found.kl) / np.bincount(found.passages)).tolist()


def ratio(first: list[float], second: list[float]) -> Estimate:
    """The ratio of two mean divergences over the same windows of equal length: windows that are hard for both cancel out."""
    ours, theirs, count = np.array(first), np.array(second), len(first)
    value = float(ours.mean() / theirs.mean())
    if count < 2:
        return Estimate(value)
    error = math.sqrt(float(((ours / ours.mean() - theirs / theirs.mean()) ** 2).sum()) / (count * (count - 1)))
    reach = math.exp(student(count - 1) * error)
    return Estimate(value, value / reach, value * reach)


def figures(found: dict[str, Positions]) -> dict[str, dict[str, Estimate]]:
    """By corpus: the mean divergence, how often the likeliest token is the same, the ratio of the perplexities."""
    wanted = ("kld_mean", "same_top", "ppl_ratio", "ppl_base")
    estimates = {corpus: metrics.estimates(positions) for corpus, positions in found.items()}
    return {corpus: {name: all_of[name] for name in wanted} for corpus, all_of in estimates.items()}
