"""The machines of a Ray cluster: an executor that does each job on one that has nothing else to do.

`opened` is the one way in, and verbs are the only ones who come: nothing else imports this room, and nothing imports ray but
this room. `connecting` reaches a cluster, `nodes` says which of its machines is free, `actor` is what runs there, `files` brings
what one machine has to another, `executor` does jobs with them.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _

if TYPE_CHECKING:
    from itrex_chat.cluster.executor import RayExecutor

NAME = "ray"


def add_option(parser: argparse.ArgumentParser) -> None:
    """`--executor`, for a command's parser."""
    parser.add_argument(
        "--executor",
        metavar="ray[:ADDRESS]",
        help=_(
            "have the work done by the machines of a Ray cluster: ray for the one that RAY_ADDRESS names or that runs here, or "
            "ray:HOST:PORT; default: this machine"
        ),
    )


@contextmanager
def opened(text: str | None) -> "Iterator[RayExecutor | None]":
    """The executor that `--executor` means; None where nothing is given. Raises RunError where it cannot be had."""
    if text is None:
        yield None
        return
    name, _colon, address = text.partition(":")
    if name != NAME:
        raise RunError(_("--executor: {text!r} cannot be read; write ray, or ray:HOST:PORT.", text=text))
    from itrex_chat.cluster.connecting import connected

    with connected(address):
        from itrex_chat.cluster.executor import RayExecutor
        from itrex_chat.cluster.nodes import HEADLESS, HeadLost

        executor = RayExecutor()
        try:
            yield executor
        except HeadLost:
            raise RunError(
                _(
                    "The head of the Ray cluster has been gone for {seconds:.0f} seconds, or was started anew. What came home is "
                    "kept; once the cluster runs again, the same command goes on.",
                    seconds=HEADLESS,
                )
            ) from None
        finally:
            executor.close()
