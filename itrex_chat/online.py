"""Ask an online model a run's questions, as one more column beside the variants.

OPENAI_API_KEY=… python -m itrex_chat.online --model gpt-4o --endpoint https://api.openai.com/v1
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from itrex_chat.comparison.figures import ONLINE
from itrex_chat.endpoints import ADDRESS, KEY
from itrex_chat.foundation import command_line
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.jobs.answer import Answer
from itrex_chat.settings import options
from itrex_chat.settings.generation import GenerationConfig
from itrex_chat.settings.questions import Question

if TYPE_CHECKING:
    from itrex_chat.endpoints.endpoint import Completion, Endpoint
    from itrex_chat.runs.content import ModelRun
    from itrex_chat.runs.record import RunRecord


def online(run: Path, endpoint: "Endpoint", told: Callable[[str], None] = lambda id: None) -> int:
    """Have the endpoint answer what is not answered yet; how many answers came. `told` gets each question's id.

    Raises RunError.
    """
    from itrex_chat.runs.record import RunRecord

    record = RunRecord.go_on(run)
    try:
        return sum(_ask_model(record, label, model, endpoint, told) for label, model in record.content.models.items())
    finally:
        record.close()


def _ask_model(
    record: "RunRecord", label: str, model: "ModelRun", endpoint: "Endpoint", told: Callable[[str], None]
) -> int:
    """Ask what a model was asked; how many answers came."""
    from itrex_chat.runs.content import Load

    _same_model_as_before(record, model, endpoint)
    answered, count = record.answered(label, ONLINE), 0
    longest = model.generation.max_new_tokens if model.generation else GenerationConfig().max_new_tokens
    for question in model.questions or ():
        if question.id not in answered:
            completion = endpoint.complete(_messages(model, question), longest)
            record.note(label, ONLINE, state="asking", load=Load(endpoint.model))
            record.append(_answer(question.id, label, completion))
            count += 1
            told(question.id)
    if model.questions:
        record.note(label, ONLINE, state="done")
    return count


def _same_model_as_before(record: "RunRecord", model: "ModelRun", endpoint: "Endpoint") -> None:
    before = model.variants[ONLINE].load if ONLINE in model.variants else None
    if before and before.kernel != endpoint.model:
        raise RunError(
            _(
                "{run} has answers of {other} already; ask {model} in a run of its own.",
                run=record.folder,
                other=before.kernel,
                model=endpoint.model,
            )
        )


def _messages(model: "ModelRun", question: Question) -> list[dict[str, str]]:
    """The conversation that the variants had: the question set's system message first, where it has one."""
    system = [{"role": "system", "content": model.system}] if model.system else []
    return [*system, {"role": "user", "content": question.text}]


def _answer(id: str, label: str, completion: "Completion") -> Answer:
    return Answer(
        id=id,
        model=label,
        variant=ONLINE,
        text=completion.text,
        token_ids=[],
        prompt_token_ids=[],
        finish_reason=completion.finish_reason,
        prompt_tokens=completion.prompt_tokens,
        new_tokens=completion.new_tokens,
        ttft=completion.seconds,
        tpot=None,
        tokens_per_second=None,
        prefill_tokens_per_second=None,
        seconds=completion.seconds,
    )


def command(arguments: argparse.Namespace) -> None:
    from itrex_chat.endpoints.endpoint import Endpoint
    from itrex_chat.runs.record import latest

    run = arguments.run or latest()
    endpoint = Endpoint.of(arguments.model, arguments.endpoint)
    count = online(run, endpoint, told=tell)
    tell(
        _(
            "{count} answers of {model} in {run}; now: python -m itrex_chat.compare {run}",
            count=count,
            model=arguments.model,
            run=run,
        )
    )


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser("online", _("Ask an online model the questions of a run, as one more column."))
    options.add_run(parser)
    options.add_endpoint(parser, ADDRESS, KEY)
    return command_line.run(command, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
