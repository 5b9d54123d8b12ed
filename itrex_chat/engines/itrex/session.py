"""A session whose model runs in ITREX's environment."""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from itrex_chat.chat import ChatTokenizer, Message
from itrex_chat.chat.streaming import TextStream
from itrex_chat.engines.itrex import environment, foreign
from itrex_chat.engines.itrex.process import Process
from itrex_chat.engines.itrex.quantized import Saved
from itrex_chat.engines.itrex.saved import load_job, obtain
from itrex_chat.engines.itrex.view import prepared
from itrex_chat.engines.on_disk import files_of
from itrex_chat.engines.session import Session
from itrex_chat.foundation.errors import EngineError, GenerationError, UnknownArchitecture
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.generation.response import Response
from itrex_chat.generation.room import room_for
from itrex_chat.jobs.event import Facts
from itrex_chat.settings.engine_options import EngineOptions
from itrex_chat.settings.generation import GenerationConfig
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import Variant

PRECISIONS = ("fp32", "int4", "int8")


class ItrexSession(Session):
    """Prompts, sampling and stop tokens are this program's, the model is ITREX's.

    With `own_template` a question is put in the words of ITREX's conversation
    template. Close it to end its process.
    """

    tokenizer: ChatTokenizer | foreign.OwnTokenizer

    def __init__(
        self,
        recipe: Recipe,
        variant: Variant,
        process: Process,
        tokenizer: ChatTokenizer | foreign.OwnTokenizer,
        limits: tuple[int, int],
        facts: Facts,
        own_template: bool = False,
    ):
        super().__init__(recipe, variant, tokenizer, facts)
        self._process, self._limits, self._own_template = process, limits, own_template
        self._peak_memory = facts.memory

    def peak_memory(self) -> int:
        return self._peak_memory

    def close(self) -> None:
        self._process.close()

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        if not self._own_template and not isinstance(self.tokenizer, foreign.OwnTokenizer):
            return self.tokenizer.prompt(list(messages))
        *system, question = messages
        if len(system) > 1 or any(message.role != "system" for message in system):
            raise GenerationError(
                _("ITREX's conversation template takes one question, with a system message or without.")
            )
        return self._process.ask("prompt", query=question.content, system=system[0].content if system else "")["ids"]

    def stream(self, prompt: list[int], config: GenerationConfig) -> Iterator[str | Response]:
        room = room_for(prompt, config, *self._limits)
        stream = TextStream(self.tokenizer.decode, self.tokenizer.strips_newline)
        sampling = dataclasses.asdict(config) | {"effective_repetition_penalty": config.effective_repetition_penalty}
        ids, text = [], ""
        events: Iterable[dict] = self._process.answer(prompt, room, sorted(self.tokenizer.stop_ids), sampling)
        if isinstance(self.tokenizer, foreign.OwnTokenizer):
            events = list(events)  # it is in the process that is busy with the answer
        for event in events:
            if event["event"] == "token":
                ids.append(event["id"])
                if piece := stream.add(event["id"]):
                    text += piece
                    yield piece
        if piece := stream.end():
            text += piece
            yield piece
        self._peak_memory = event["memory"]
        yield Response(text, ids, prompt, "stop" if event["stopped"] else "length", event["ttft"], event["tpot"])


def load(
    recipe: Recipe, variant: Variant, home: Path | None, options: EngineOptions, trusted: dict[str, str] | None
) -> ItrexSession:
    """FP32, INT4 or INT8 of a recipe's model, computed by ITREX. Raises ItrexChatError."""
    home = home or cache_home()
    precision = variant.precision
    version = check(precision)
    try:
        if not variant.bits:
            view, saved, size = prepared(recipe, home), None, None
            job = load_job(view, precision, recipe)
        else:
            found = obtain(recipe, home, trusted)
            saved, view = found.saved, found.view
            size = found.artifact.nbytes() + view.bytes_of_rest() + (found.own.stat().st_size if found.own else 0)
            job = load_job(view, precision, recipe, found.artifact, found.own)
    except UnknownArchitecture as error:
        if not options.trust_remote_code:
            raise type(error)(foreign.explained(recipe, error)) from None
        return _foreign(recipe, variant, home, error)
    started = time.perf_counter()
    process = Process(view.folder, view.architecture.name, precision, home)
    try:
        loaded = process.load(**job)
    except BaseException:
        process.close()
        raise
    facts = Facts(
        seconds=time.perf_counter() - started,  # without what is done once
        memory=loaded["memory"],
        threads=loaded["threads"],
        kernel=f"ITREX {version}" + (" (QBits)" if loaded["packed"] else ""),
        why="",
        compute_dtype=recipe.quantization.compute_dtype if variant.bits else precision,
        disk_bytes=size or view.checkpoint.source.size(),
        weight_bytes=loaded["weight_bytes"],
        stored=view.checkpoint.description,
        origin=view.checkpoint.source.origin,
        engine=_engine_facts(loaded, saved, process),
        files=files_of(view.checkpoint.source, home),
    )
    limits = view.architecture.context, view.checkpoint.decoder.vocab_size
    return ItrexSession(recipe, variant, process, view.tokenizer, limits, facts, options.own_template)


def _foreign(recipe: Recipe, variant: Variant, home: Path, why: UnknownArchitecture) -> ItrexSession:
    """A model whose own code ITREX runs."""
    process, tokenizer, limits, facts, loaded = foreign.load(recipe, variant, home, why)
    whole = dataclasses.replace(facts, engine=_engine_facts(loaded, None, process))
    return ItrexSession(recipe, variant, process, tokenizer, limits, whole, own_template=True)


def check(precision: str) -> str:
    """The version of the ITREX that will compute a precision. Raises EngineError where none can."""
    if precision not in PRECISIONS:
        raise EngineError(
            _(
                "ITREX has no {name} here: its BF16 needs intel-extension-for-pytorch, which its set of versions "
                "does not have. Ask for fp32 or int4.",
                name=precision.upper(),
            )
        )
    return environment.find().version


def _engine_facts(loaded: dict, saved: Saved | None, process: Process) -> dict:
    """What a run's record keeps of ITREX: versions, its log's lines, and how its integers compare."""
    return {
        "name": "itrex",
        **{name: loaded[name] for name in ("version", "torch", "transformers", "python", "matrices", "packed")},
        "load_seconds": loaded["seconds"],
        "log": saved.log if saved else process.notable(),
        "log_file": str(process.log),
        "saved": dataclasses.asdict(saved) if saved else None,
    }
