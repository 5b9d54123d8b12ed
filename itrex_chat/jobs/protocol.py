"""How `ask` and its workers talk: one JSON object on a line, jobs in, events out.

A worker may be another program in another environment: it needs nothing of
this package but this agreement. Its first line on standard input is the job:

    {"task": "prepare", "recipe": {…}, "variants": ["fp32", "int4"], "tokens": 512}
    {"task": "ask", "recipe": {…}, "variant": "int4", "questions": [{"id": …, "text": …}], "system": "",
     "generation": {…}, "kernel": null}

and its lines on standard output are events:

    {"event": "prepared", "needs": {"int4": bytes}, "languages": […], "artifact": "folder", "source": {…}}
    {"event": "loaded", "seconds": …, "kernel": …, "threads": …, "weight_bytes": …, "disk_bytes": …}
    {"event": "text", "id": …, "text": …}
    {"event": "answer", "id": …, …}
    {"event": "done", "peak_memory": bytes}
    {"event": "error", "message": "one sentence"}

Standard error is for people. The end of standard input tells a worker that
nobody listens any more, and it ends.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _


def work(job: dict) -> Iterator[dict]:
    """Run a job in a worker process of its own and yield its events.

    Raises RunError with the worker's own sentence, or with how it died.
    """
    environment = dict(os.environ, PYTHONUNBUFFERED="1")
    worker = subprocess.Popen(
        [sys.executable, "-m", "itrex_chat.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment,
        start_new_session=True,
    )  # an interrupt is ours to handle
    try:
        try:
            worker.stdin.write(json.dumps(job) + "\n")
            worker.stdin.flush()
        except BrokenPipeError:
            pass  # it died at once; its exit code tells
        for line in worker.stdout:
            event = json.loads(line)
            if event["event"] == "error":
                raise RunError(event["message"])
            yield event
        if code := worker.wait():
            raise RunError(_death(code))
    finally:
        worker.stdin.close()
        try:
            worker.wait(timeout=5)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            worker.kill()
            worker.wait()
        worker.stdout.close()


def tell(event: str, **fields) -> None:
    """A worker's side: send one event."""
    sys.stdout.write(json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def receive_job() -> dict:
    """A worker's side: the job; from then on the end of standard input ends the process."""
    line = sys.stdin.readline()
    if not line:
        sys.exit(1)
    job = json.loads(line)

    def watch():
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return job


def _death(code: int) -> str:
    if code == -9:
        return _("The worker was killed, probably because the memory ran out.")
    if code == -4:
        return _(
            "The worker stopped at an instruction that this processor does not have; try ITREX_CHAT_KERNEL=reference."
        )
    return _("The worker died (exit code {code}).", code=code)
