"""ITREX at work, in its own environment: `PYTHON …/engines/itrex/worker LOG`.

Lines of JSON, as in `runs/protocol.py`: first what to load, then one line for
each prompt. What ITREX prints goes to the file LOG. Needs nothing but the
standard library and what ITREX's environment has.

    {"task": "load", "model": "qwen-gpt", "variant": "fp32", …}          see `itrex_building.load`
    {"task": "answer", "ids": […], "room": 256, "stop_ids": […], "sampling": {…}}
    {"task": "prompt", "query": "…", "system": ""}                       ITREX's own conversation template
    {"task": "decode", "ids": […]}   {"task": "limits"}                  where only ITREX knows the tokenizer

    {"event": "loaded", …}   {"event": "token", "id": …}   {"event": "end", "ttft": …, "tpot": …}   {"event": "prompt", …}
    {"event": "error", "message": "what happened"}

A job's "number" comes back with its events; an answer ends early when the
next job waits.
"""

import json
import os
import sys
import threading


def main():
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)

    def tell(event, **fields):
        answers.write(json.dumps(dict(fields, event=event, number=number), ensure_ascii=False) + "\n")
        answers.flush()

    # Read apart, so that the end of standard input ends a worker that is busy inside ITREX.
    jobs, arrived = [], threading.Semaphore(0)

    def read():
        for line in sys.stdin:
            jobs.append(json.loads(line))
            arrived.release()
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    loaded, number = None, 0
    while True:
        arrived.acquire()
        job = jobs.pop(0)
        number = job.pop("number", 0)
        try:
            task = job.pop("task")
            if task == "load":
                from itrex_building import load

                loaded, facts = load(**job)
                tell("loaded", **facts)
            elif task == "answer":
                from itrex_answering import answer

                answer(loaded, tell, lambda: bool(jobs), **job)
            else:
                import itrex_answering

                tell(
                    task,
                    **{
                        "prompt": itrex_answering.own_prompt,
                        "decode": itrex_answering.decode,
                        "limits": itrex_answering.limits,
                    }[task](loaded, **job),
                )
        except BaseException as error:  # ITREX calls exit(0) where it fails
            import traceback

            traceback.print_exc()
            tell("error", message=_sentence(error))
            os._exit(1)


def _sentence(error):
    if isinstance(error, SystemExit):
        return "it ended the program"
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return "the memory ran out"
    return "{}: {}".format(type(error).__name__, " ".join(str(error).split())[:300])


main()
