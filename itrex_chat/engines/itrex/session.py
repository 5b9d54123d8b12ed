"""A chatbot whose model runs in ITREX's environment."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

from itrex_chat.chat.streaming import TextStream
from itrex_chat.engines import EngineOptions, engine_and_precision
from itrex_chat.engines.itrex import environment, foreign
from itrex_chat.engines.itrex.process import Process
from itrex_chat.engines.itrex.quantized import Saved
from itrex_chat.engines.itrex.saved import load_job, obtain
from itrex_chat.engines.itrex.view import prepared
from itrex_chat.foundation.errors import EngineError, GenerationError, UnknownArchitecture
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.generation.response import Response
from itrex_chat.generation.room import room_for
from itrex_chat.neuralchat.chatbot import Chatbot
from itrex_chat.settings import generation as generation_config
from itrex_chat.settings.recipe import Recipe

PRECISIONS = ("fp32", "int4", "int8")


class ItrexChatbot(Chatbot):
    """A chatbot of ITREX's: prompts, sampling and stop tokens are this program's, the model is ITREX's.

    With `own_template` a question is put in the words of ITREX's conversation
    template. Close it to end its process.
    """

    def __init__(
        self,
        recipe: Recipe,
        variant: str,
        process: Process,
        tokenizer,
        limits: tuple[int, int],
        facts: dict,
        own_template: bool = False,
    ):
        super().__init__(recipe, variant, None, tokenizer, facts)
        self._process, self._limits, self._own_template = process, limits, own_template
        self._peak_memory = facts["memory"]

    def peak_memory(self) -> int:
        return self._peak_memory

    def close(self) -> None:
        self._process.close()

    def _prompt(self, messages: list) -> list[int]:
        if not self._own_template:
            return super()._prompt(messages)
        *system, question = messages
        if len(system) > 1 or any(message.role != "system" for message in system):
            raise GenerationError(
                _("ITREX's conversation template takes one question, with a system message or without.")
            )
        return self._process.ask("prompt", query=question.content, system=system[0].content if system else "")["ids"]

    def _answer(self, prompt: list[int], config: generation_config.GenerationConfig) -> Iterator[str | Response]:
        room = room_for(prompt, config, *self._limits)
        stream = TextStream(self._tokenizer.decode, self._tokenizer.strips_newline)
        sampling = dataclasses.asdict(config) | {"effective_repetition_penalty": config.effective_repetition_penalty}
        ids, text = [], ""
        events = self._process.answer(prompt, room, sorted(self._tokenizer.stop_ids), sampling)
        if isinstance(self._tokenizer, foreign.OwnTokenizer):
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


def load_itrex_chatbot(
    recipe: Recipe, variant: str, home: Path | None = None, options: EngineOptions = EngineOptions()
) -> ItrexChatbot:
    """A variant ("itrex-fp32", "itrex-int4" or "itrex-int8") of a recipe's model. Raises ItrexChatError."""
    home = home or cache_home()
    precision = engine_and_precision(variant)[1]
    version = check(precision)
    try:
        if precision == "fp32":
            view, saved, size = prepared(recipe, home), None, None
            job = load_job(view, precision, recipe)
        else:
            found = obtain(recipe, home)
            saved, view = found.saved, found.view
            size = found.artifact.nbytes() + view.bytes_of_rest() + (found.own.stat().st_size if found.own else 0)
            job = load_job(view, precision, recipe, found.artifact, found.own)
    except UnknownArchitecture as error:
        if not options.trust_remote_code:
            raise type(error)(foreign.explained(recipe, error)) from None
        process, tokenizer, limits, facts, loaded = foreign.load(recipe, variant, home, error)
        facts["engine"] = _engine_facts(loaded, None, process)
        return ItrexChatbot(recipe, variant, process, tokenizer, limits, facts, own_template=True)
    started = time.perf_counter()
    process = Process(view.folder, view.architecture.name, precision, home)
    try:
        loaded = process.load(**job)
    except BaseException:
        process.close()
        raise
    facts = {
        "seconds": time.perf_counter() - started,  # without what is done once
        "threads": loaded["threads"],
        "kernel": f"ITREX {version}" + (" (QBits)" if loaded["packed"] else ""),
        "why": "",
        "compute_dtype": precision if precision == "fp32" else recipe.quantization.compute_dtype,
        "disk_bytes": size or view.checkpoint.source.size(),
        "stored": view.checkpoint.description,
        "origin": view.checkpoint.source.origin,
        "weight_bytes": loaded["weight_bytes"],
        "memory": loaded["memory"],
        "engine": _engine_facts(loaded, saved, process),
    }
    return ItrexChatbot(
        recipe,
        variant,
        process,
        view.tokenizer,
        (view.architecture.context, view.checkpoint.decoder.vocab_size),
        facts,
        options.own_template,
    )


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
