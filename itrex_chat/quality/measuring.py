"""The way through: from passages to the figures of each variant against the baseline."""

import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from itrex_chat.calibration.texts import texts_of
from itrex_chat.foundation import files
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import lasting, readable
from itrex_chat.jobs.event import Facts, Loaded, Pace, Planned
from itrex_chat.jobs.executor import Executor, LocalExecutor
from itrex_chat.jobs.forecast import reading
from itrex_chat.jobs.job import PlanScoring, Score
from itrex_chat.jobs.passage import Passage
from itrex_chat.jobs.together import Together, at_once
from itrex_chat.quality import metrics
from itrex_chat.quality.intervals import Estimate
from itrex_chat.quality.metrics import Positions
from itrex_chat.quality.passages import ANSWERS, WINDOW, of_text, passes
from itrex_chat.quality.store import Parts
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.shard import Shard
from itrex_chat.settings.variant import Variant, kept_in, titled

LARGEST_TEXT = 8 << 20  # bytes


@dataclass(frozen=True)
class Corpus:
    """One variant's figures on the answers or on one text."""

    name: str
    passages: int
    positions: int
    figures: dict[str, Estimate]
    compaction_error: float  # standard error that it adds to kld_mean, in nats


@dataclass(frozen=True)
class Measured:
    """One variant against the baseline. `found` holds the positions of each corpus, for what is not in the figures."""

    variant: str
    corpora: list[Corpus]
    found: dict[str, Positions]
    reason: str = ""  # why it was not measured
    cache_format: str = "fp32"  # of its keys and values


@dataclass(frozen=True)
class Measurement:
    """One model: which passages, and what each variant made of them."""

    baseline: str
    passages: list[Passage]
    pieces: dict[str, list[str]]  # the text of each token of each answer
    reference: Parts
    plan: Planned
    variants: list[Measured]


def measure(
    recipe: Recipe,
    baseline: str,
    variants: list[str],
    answers: list[Passage],
    texts: Sequence[Path] = (),
    limit: int | None = None,
    executor: Executor | None = None,
    cache_format: str | None = None,
    shard: Shard | None = None,
) -> Measurement:
    """Score variants against the baseline on the answers and on text files (the first `limit` tokens of each, 2 or more).

    Raises RunError where the baseline itself cannot be had; a variant that
    cannot says why in its place. `executor` does the work (None: here). The variants that are compared, but not the
    baseline, keep keys and values in `cache_format` (None: as the recipe says). With a `shard`, only its part of the
    passages is gone through, for the cache; who measures all of them finds them there.
    """
    if limit is not None and limit < 2:
        raise RunError(
            _("One token alone has none before it to be predicted from; use at least 2 tokens of each text.")
        )
    named = _named(texts)
    for text in named.values():
        _check_text(text)
    for name in variants:
        _refuse_calibrated(Variant.parse(name).applied_to(recipe), list(named.values()), answers)
    executor = executor or LocalExecutor()
    job = PlanScoring(
        recipe=recipe,
        baseline=baseline,
        variants=tuple(variants),
        answers=tuple(passage.ids[passage.first :] for passage in answers),
        texts=tuple(map(str, named.values())),
        tokens=max([WINDOW, *(len(passage.ids) for passage in answers)]),
        cache_format=cache_format,
    )
    plan = next(event for event in executor.run(job) if isinstance(event, Planned))
    passages = list(answers)
    for name, ids in zip(named, plan.texts):
        windows = of_text(name, list(ids[:limit]))
        if not windows:
            raise RunError(_("{text} has fewer than two tokens; name a longer one.", text=named[name]))
        passages += windows
    if not passages:
        raise RunError(
            _("There is nothing to measure on: no answer of {baseline}, and no --text.", baseline=titled(baseline))
        )
    for passage in passages:
        if passage.positions and max(passage.ids) >= plan.vocabulary:
            raise RunError(
                _(
                    "The answer {name} has tokens that this model does not have: it was given by another one.",
                    name=passage.name,
                )
            )
    passages = list(shard.of(passages)) if shard else passages
    reference = Parts("reference", plan.reference)
    scoring = _Scoring(recipe, baseline, passages, reference, plan, executor, cache_format)
    scoring.score(baseline, None)
    reference.told(recipe.name, baseline)
    measured = [scoring.measured(name) for name in variants]
    pieces = {passage.name: list(found) for passage, found in zip(answers, plan.pieces)}
    return Measurement(baseline, passages, pieces, reference, plan, measured)


def also_kept(
    measured: Measurement,
    recipe: Recipe,
    formats: Sequence[str],
    answers: list[Passage],
    texts: Sequence[Path] = (),
    limit: int | None = None,
    executor: Executor | None = None,
    shard: Shard | None = None,
) -> Measurement:
    """A measurement, with its variants besides where they keep keys and values in other formats: each under a name of its
    own (`kept_in`), with what the format adds to the mean divergence, `kld_added`, on the same positions."""
    own = {variant.variant: variant for variant in measured.variants}
    found = list(measured.variants)
    for cache_format in formats:
        names = [name for name in own if Variant.parse(name).cache_format(recipe) != cache_format]
        if names:
            part = measure(recipe, measured.baseline, names, answers, texts, limit, executor, cache_format, shard)
            found += [_beside(own[variant.variant], variant, cache_format) for variant in part.variants]
    return dataclasses.replace(measured, variants=found)


def _beside(own: Measured, other: Measured, cache_format: str) -> Measured:
    """A variant in another format of keys and values, beside what it is in its own."""
    corpora = [
        dataclasses.replace(
            corpus,
            figures=corpus.figures
            | {"kld_added": metrics.difference(own.found[corpus.name], other.found[corpus.name])},
        )
        if corpus.name in own.found
        else corpus
        for corpus in other.corpora
    ]
    return dataclasses.replace(other, variant=kept_in(other.variant, cache_format), corpora=corpora)


@dataclass(frozen=True)
class _Scoring:
    """What scoring one variant after the other shares."""

    recipe: Recipe
    baseline: str
    passages: list[Passage]
    reference: Parts
    plan: Planned
    executor: Executor
    cache_format: str | None

    def measured(self, variant: str) -> Measured:
        if problem := self.plan.problems.get(variant):
            return Measured(variant, [], {}, problem)
        scores = Parts("scores", self.plan.variants[variant])
        try:
            self._compared(variant, scores)
            scores.told(self.recipe.name, variant)
        except RunError as error:
            return Measured(variant, [], {}, str(error))
        found, corpora = dict[str, Positions](), list[Corpus]()
        if not self.passages:  # of a shard
            return Measured(variant, corpora, found)
        for name in dict.fromkeys(passage.corpus for passage in self.passages):
            part = [passage for passage in self.passages if passage.corpus == name]
            found[name] = metrics.positions(self.reference.all(part), scores.all(part))
            corpora.append(
                Corpus(
                    name,
                    len(part),
                    len(found[name].kl),
                    metrics.estimates(found[name]),
                    metrics.compaction_error(found[name]),
                )
            )
        kept = Variant.parse(variant).cache_format(self.recipe.keeping(self.cache_format))
        return Measured(variant, corpora, found, cache_format=kept)

    def _compared(self, variant: str, scores: Parts) -> None:
        """Have a variant compared with the baseline, which is scored again where it was damaged meanwhile."""
        try:
            self.score(variant, scores)
        except RunError:
            if not self.reference.missing(self.passages):
                raise
            self.score(self.baseline, None)
            self.score(variant, scores)

    def score(self, variant: str, scores: Parts | None) -> None:
        """Have a variant go through the passages that are not in the cache yet. Raises RunError."""
        parts = scores or self.reference
        if missing := parts.missing(self.passages):
            files.writable(parts.folder, RunError)
            together, count = Together(self.executor), min(at_once(self.executor), len(missing))
            for number in range(1, count + 1):
                job = Score(
                    recipe=self.recipe.keeping(self.cache_format if scores else None),
                    variant=variant,
                    passages=tuple(Shard(number, count).of(missing)),
                    reference=self.reference.key,
                    scores=scores.key if scores else None,
                    needed=self.plan.needs[variant],
                )
                together.add([job])
            _hear(together, missing)


def _hear(together: Together, missing: list[Passage]) -> None:
    """Wait for jobs that score passages; say how long that takes. Raises the first error, once all have ended."""
    errors = []
    for told in together.told():
        if isinstance(told.event, Loaded) and told.event.pace:
            tell_time(missing, told.event.facts, told.event.pace)
        errors += [told.error] if told.error else []
    if errors:
        raise errors[0]


def tell_time(missing: list[Passage], facts: Facts, pace: Pace) -> None:
    """Say what going through passages takes where weights are read from disk for each pass."""
    seconds = sum(pace.prompt(last - first) for passage in missing for first, last in passes(passage))
    told = (
        _("one passage takes about {time}", time=lasting(seconds))
        if len(missing) == 1
        else _("{count} passages take about {time}", count=len(missing), time=lasting(seconds))
    )
    tell(reading(facts, pace) + told, file=sys.stderr)


def _named(texts: Sequence[Path]) -> dict[str, Path]:
    """Each text once, by what it is called in figures: its file's name, or its whole path where others are called so."""
    paths = [Path(path) for path in dict.fromkeys(map(os.path.abspath, texts))]
    counts = Counter([ANSWERS, *(path.name for path in paths)])
    return {path.name if counts[path.name] == 1 else str(path): path for path in paths}


def _refuse_calibrated(recipe: Recipe, texts: list[Path], answers: Sequence[Passage]) -> None:
    """Refuse a text that the variant was fitted to, or that is a part of such a one, and such an answer: it would look better
    than it is."""
    for seen in texts_of(recipe.quantization):
        conversations = set(seen.conversations)
        for answer in answers:
            if tuple(answer.ids) in conversations:
                raise RunError(
                    _(
                        "The weights were calibrated on the answer {name} ({run}); measure a run of other questions.",
                        name=answer.name,
                        run=seen.name,
                    )
                )
        for path in texts:
            text = files.text_of(path, RunError)
            known = seen.text.strip()
            if text.strip() and known and (text.strip() in known or known in text):
                raise RunError(
                    _(
                        "{text} has what the weights were calibrated on ({name}); name a text that they have not seen.",
                        text=path,
                        name=seen.name,
                    )
                )


def _check_text(text: Path) -> None:
    try:
        if text.stat().st_size > LARGEST_TEXT:
            raise RunError(
                _("{text} is larger than {limit}; name a shorter one.", text=text, limit=readable(LARGEST_TEXT))
            )
        files.text_of(text, RunError)  # a regular file, and nothing that never ends
    except OSError as error:
        raise RunError(_("{path} cannot be read: {reason}.", path=text, reason=error.strerror)) from None
    except UnicodeDecodeError:
        raise RunError(_("{text} is not a text in UTF-8; save it as one.", text=text)) from None
