"""What each kind of job takes. Each task yields events and nothing else; it may run in any process."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from itrex_chat.chat.messages import Message, as_messages
from itrex_chat.chat.streaming import token_pieces
from itrex_chat.engines import open_session
from itrex_chat.engines.answered import as_answer
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import ItrexChatError, MemoryShortage, RunError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable
from itrex_chat.generation.response import Response
from itrex_chat.jobs.event import Answered, Done, Event, LayerScored, Loaded, Planned, Prepared, Scored, Text
from itrex_chat.jobs.job import Ask, Job, PlanScoring, Prepare, Score, ScoreLayers
from itrex_chat.settings.generation import NO_DRAFTS
from itrex_chat.settings.questions import Question
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import Variant, titled

if TYPE_CHECKING:
    from itrex_chat.engines.preparation import Preparation
    from itrex_chat.engines.session import Session


def perform(job: Job) -> Iterator[Event]:
    """Do a job. Raises ItrexChatError with a sentence for the user."""
    if isinstance(job, Prepare):
        return _prepare(job)
    if isinstance(job, Ask):
        return _ask(job)
    if isinstance(job, PlanScoring):
        return _plan_scoring(job)
    if isinstance(job, Score):
        return _score(job)
    return _score_layers(job)


def _prepare(job: Prepare) -> Iterator[Event]:
    found = _prepared(job, job.recipe, job.variants, job.tokens, job.named, job.batch)
    yield Prepared(
        job=job.id,
        needs=found.needs,
        languages=found.languages(),
        problems=found.problems,
        artifacts=found.artifacts,
        trusted=found.trusted,
        files=found.files(),
        left_out=found.left_out,
        streamed=tuple(found.streamed),
        batches=found.batches,
    )


def _ask(job: Ask) -> Iterator[Event]:
    if job.needs:
        _check_asking(job)
    trusted = dict(job.trusted)
    needed = job.needs.get(job.variant)
    with open_session(
        job.recipe, job.variant, options=job.options, trusted=trusted, needed=needed, batch=job.batch
    ) as session:
        session.ready(job.generation, job.batch)
        prompts, refused = _prompts(job, session)
        counts = tuple(map(len, prompts))
        here = machine.description()
        yield Loaded(job=job.id, facts=session.facts, pace=session.pace, prompts=counts, trusted=trusted, machine=here)
        answers = (_together if job.batch > 1 else _one_by_one)(job, session, prompts)
        for question, piece, seconds in answers:
            if isinstance(piece, Response):
                answer = as_answer(piece, question.id, job.label, job.variant, seconds)
                yield Answered(job=job.id, answer=answer)
            else:
                yield Text(job=job.id, question=question.id, text=piece)
        if refused:
            raise refused
        yield Done(job=job.id, peak_memory=session.peak_memory())


# A question with a piece of its answer, or the whole of it, and the seconds that it took until then.
Answering = Iterator[tuple[Question, str | Response, float]]


def _one_by_one(job: Ask, session: "Session", prompts: list[list[int]]) -> Answering:
    for question, prompt in zip(job.questions, prompts):
        began = time.perf_counter()
        for piece in session.stream(prompt, job.generation):
            yield question, piece, time.perf_counter() - began


def _together(job: Ask, session: "Session", prompts: list[list[int]]) -> Answering:
    began = time.perf_counter()
    for number, piece in session.together(prompts, job.generation, job.batch):
        seconds = time.perf_counter() - began
        if isinstance(piece, Response):
            seconds, began = piece.share or seconds, time.perf_counter()
        yield job.questions[number], piece, seconds


def _prompts(job: Ask, session: "Session") -> tuple[list[list[int]], ItrexChatError | None]:
    """The ids that ask each question, up to the first that cannot be asked, and why that is."""
    system, prompts = [Message("system", job.system)] * bool(job.system), list[list[int]]()
    for question in job.questions:
        try:
            prompts.append(session.prompt(as_messages([*system, Message("user", question.text)])))
        except ItrexChatError as error:
            return prompts, error
    return prompts, None


def _check_asking(job: Ask) -> None:
    """Raise MemoryShortage, with the numbers and what would fit, where a variant does not."""
    free, needs = machine.available_memory(), job.needs
    if needs[job.variant] <= free:
        return
    fitting = [f"{titled(name)} ({readable(size)})" for name, size in needs.items() if size <= free]
    advice = _("What would fit: {names}.", names=", ".join(fitting)) if fitting else _("No variant of it would fit.")
    raise MemoryShortage(
        _(
            "{label} {variant} needs {needed} of memory, but {free} is left: skipped. {advice}",
            label=job.label,
            variant=titled(job.variant),
            needed=readable(needs[job.variant]),
            free=readable(free),
            advice=advice,
        )
    )


def _plan_scoring(job: PlanScoring) -> Iterator[Event]:
    from itrex_chat.kernels import choose
    from itrex_chat.quality import scoring

    generation = dataclasses.replace(
        job.recipe.generation, draft=NO_DRAFTS
    )  # nothing is generated, so no drafter is needed
    recipe = dataclasses.replace(job.recipe, generation=generation).keeping(job.cache_format)
    found = _prepared(job, recipe, tuple(dict.fromkeys((job.baseline, *job.variants))), job.tokens)
    if problem := found.problems.get(job.baseline):
        raise RunError(problem)
    baseline = found.on_disk[job.baseline]
    tokenizer, decoder = baseline.tokenizer(job.recipe), baseline.decoder
    assert decoder is not None
    extra = scoring.logits_bytes(decoder.vocab_size)
    ready = [name for name in job.variants if name not in found.problems]
    reference = scoring.reference_key(job.recipe, job.baseline, found.on_disk[job.baseline])
    keys = {name: scoring.scores_key(reference, recipe, name, found.on_disk[name]) for name in ready}
    yield Planned(
        job=job.id,
        needs={name: size + extra for name, size in found.needs.items()},
        problems=found.problems,
        artifacts=found.artifacts,
        texts=tuple(tuple(tokenizer.encode(Path(text).read_text("utf-8"))) for text in job.texts),
        pieces=tuple(tuple(token_pieces(tokenizer, list(ids))) for ids in job.answers),
        vocabulary=decoder.vocab_size,
        layers=decoder.layers,
        kernel=choose().name,
        reference=reference,
        variants=keys,
        trusted=found.trusted,
    )


def _score(job: Score) -> Iterator[Event]:
    from itrex_chat.quality import scoring

    _check_scoring(job.variant, job.needed)
    trusted = dict(job.trusted)
    with open_session(job.recipe, job.variant, options=job.options, trusted=trusted, needed=job.needed) as session:
        yield Loaded(job=job.id, facts=session.facts, pace=session.pace, trusted=trusted)
        for passage in scoring.score(session, job.passages, job.reference, job.scores):
            yield Scored(job=job.id, passage=passage.key)
        yield Done(job=job.id, peak_memory=session.peak_memory())


def _score_layers(job: ScoreLayers) -> Iterator[Event]:
    from itrex_chat.quality import scoring

    _check_scoring(job.baseline, job.needed)
    with open_session(job.recipe, job.baseline, options=job.options, needed=job.needed) as session:
        yield Loaded(job=job.id, facts=session.facts, pace=session.pace)
        for number in scoring.score_layers(session, job, dict(job.trusted)):
            yield LayerScored(job=job.id, number=number)
        yield Done(job=job.id, peak_memory=session.peak_memory())


def _check_scoring(variant: str, needed: int) -> None:
    """Raise MemoryShortage with the numbers where a variant would not fit."""
    free = machine.available_memory()
    if needed > free:
        raise MemoryShortage(
            _(
                "Scoring {variant} needs {needed} of memory, but {free} is left.",
                variant=titled(variant),
                needed=readable(needed),
                free=readable(free),
            )
        )


def _prepared(
    job: Prepare | PlanScoring,
    recipe: Recipe,
    variants: tuple[str, ...],
    tokens: int,
    named: bool = True,
    batch: int | None = 1,
) -> "Preparation":
    from itrex_chat.engines.preparation import prepare

    asked = [Variant.parse(name) for name in variants]
    return prepare(recipe, asked, tokens, job.options, dict(job.trusted), named, batch)
