"""Ask an online model a run's questions, as one more column beside the variants.

OPENAI_API_KEY=… python -m itrex_chat.online --model gpt-4o --endpoint https://api.openai.com/v1
"""

import sys
from pathlib import Path

from itrex_chat.compare import latest
from itrex_chat.comparison import ONLINE
from itrex_chat.endpoints.endpoint import ADDRESS, KEY, Endpoint
from itrex_chat.foundation import command_line
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _
from itrex_chat.runs.record import RunRecord


def online(run: Path, endpoint: Endpoint, told=lambda id: None) -> int:
    """Have the endpoint answer what is not answered yet; how many answers came. Raises RunError."""
    record = RunRecord.read(run)
    record = RunRecord.start(run, record.content["spec"])
    count = 0
    try:
        for label, model in record.content["models"].items():
            before = model["variants"].get(ONLINE, {}).get("load", {}).get("kernel", endpoint.model)
            if before != endpoint.model:
                raise RunError(
                    _(
                        "{run} has answers of {other} already; ask {model} in a run of its own.",
                        run=run,
                        other=before,
                        model=endpoint.model,
                    )
                )
            for question in model.get("questions", ()):
                if question["id"] in record.answered(label, ONLINE):
                    continue
                found = endpoint.complete(
                    [{"role": "user", "content": question["text"]}], model["generation"]["max_new_tokens"]
                )
                record.note(label, ONLINE, state="asking", load={"kernel": endpoint.model})
                record.append(
                    {
                        "id": question["id"],
                        "model": label,
                        "variant": ONLINE,
                        "text": found.text,
                        "token_ids": [],
                        "prompt_token_ids": [],
                        "finish_reason": found.finish_reason,
                        "prompt_tokens": found.prompt_tokens,
                        "new_tokens": found.new_tokens,
                        "ttft": found.seconds,
                        "tpot": None,
                        "tokens_per_second": None,
                        "prefill_tokens_per_second": None,
                        "seconds": found.seconds,
                    }
                )
                count += 1
                told(question["id"])
            if model.get("questions"):
                record.note(label, ONLINE, state="done")
    finally:
        record.close()
    return count


def command(arguments) -> None:
    run = arguments.run or latest()
    endpoint = Endpoint.of(arguments.model, arguments.endpoint)
    count = online(run, endpoint, told=lambda id: print(id, flush=True))
    print(
        _(
            "{count} answers of {model} in {run}; now: python -m itrex_chat.compare {run}",
            count=count,
            model=arguments.model,
            run=run,
        )
    )


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser("online", _("Ask an online model the questions of a run, as one more column."))
    add_endpoint(parser)
    return command_line.run(command, parser.parse_args(argv))


def add_endpoint(parser) -> None:
    """What `online` and `judge` share."""
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help=_("the folder of a run; default: the newest"))
    parser.add_argument("--model", required=True, metavar="NAME", help=_("the model's name at the endpoint"))
    parser.add_argument(
        "--endpoint",
        metavar="ADDRESS",
        help=_(
            "an OpenAI-compatible address up to /v1; default: {variable}. The key is taken from {key}",
            variable=ADDRESS,
            key=KEY,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
