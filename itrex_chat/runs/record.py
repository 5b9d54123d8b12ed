"""The record of a run: `run.json` for what was asked of whom, `answers.jsonl` with a line for each answer.

Answers are appended as they come and synced, so that a run that is killed
loses at most the answer it was in; the same run then goes on behind it.
"""

import dataclasses
import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from itrex_chat.chat.messages import printable
from itrex_chat.foundation import files, machine
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _
from itrex_chat.settings.recipe import WEIGHT_DTYPES
from itrex_chat.settings.variant import NATIVE, Variant

FORMAT_VERSION = 1
RUN, ANSWERS = "run.json", "answers.jsonl"


class RunRecord:
    """One run's folder. `content` is what `run.json` holds; `answers` the answers so far."""

    def __init__(self, folder: Path, content: dict, answers: list[dict]):
        self.folder, self.content, self.answers = folder, content, answers
        self._lock: FileLock | None = None

    @classmethod
    def read(cls, folder: Path) -> "RunRecord":
        """A run that exists. Raises RunError."""
        path = folder / RUN
        try:
            content = json.loads(path.read_text("utf-8"))
            if content["format"] != FORMAT_VERSION:
                raise RunError(_("{path} was written by another version of this program.", path=path))
            return cls(folder, content, _read_answers(folder / ANSWERS))
        except OSError as error:
            raise RunError(
                _(
                    "{folder} holds no run: {name} cannot be read ({reason}).",
                    folder=folder,
                    name=RUN,
                    reason=error.strerror,
                )
            ) from None
        except (ValueError, KeyError, TypeError):
            raise RunError(_("{path} is damaged.", path=path)) from None

    @classmethod
    def start(cls, folder: Path, spec: dict) -> "RunRecord":
        """A new run in `folder`, or the one in it if it is of the same `spec`. Raises RunError."""
        with files.disk_errors(RunError, _("Writing the run {folder}", folder=folder)):
            folder.mkdir(parents=True, exist_ok=True)
            lock = _locked(folder)
            if (folder / RUN).exists():
                record = cls.read(folder)
                if record.content["digest"] != digest(spec):
                    lock.release()
                    raise RunError(
                        _(
                            "{folder} holds another run (other models, questions or settings); name another "
                            "folder with --out.",
                            folder=folder,
                        )
                    )
            elif any(path.name != ".lock" for path in folder.iterdir()):
                lock.release()
                raise RunError(
                    _("{folder} is not empty and holds no run; name another folder with --out.", folder=folder)
                )
            else:
                record = cls(
                    folder,
                    {
                        "format": FORMAT_VERSION,
                        "digest": digest(spec),
                        "spec": spec,
                        "created": datetime.now(UTC).isoformat(timespec="seconds"),
                        "machine": machine.description(),
                        "complete": False,
                        "models": {},
                    },
                    [],
                )
                record.save()
            record._lock = lock
            record._drop_partial_line()
        return record

    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def save(self) -> None:
        files.write_json(self.folder / RUN, self.content)

    def model(self, label: str) -> dict:
        """What is known of a model in this run."""
        return self.content["models"].setdefault(label, {"variants": {}})

    def note(self, label: str, variant: str, **facts) -> None:
        """Add facts about a variant and save them."""
        self.model(label)["variants"].setdefault(variant, {}).update(facts)
        self.save()

    def answered(self, label: str, variant: str) -> set[str]:
        """The questions that a variant has answered."""
        return {answer["id"] for answer in self.answers if (answer["model"], answer["variant"]) == (label, variant)}

    def finish(self) -> None:
        """Note whether everything was asked."""
        states = [
            facts.get("state") for model in self.content["models"].values() for facts in model["variants"].values()
        ]
        self.content["complete"] = all(state in ("done", "skipped") for state in states)
        self.save()

    def append(self, answer) -> None:
        """Keep an answer, on disk before this returns."""
        answer = dataclasses.asdict(answer) if dataclasses.is_dataclass(answer) else answer
        with (
            files.disk_errors(RunError, _("Writing the run {folder}", folder=self.folder)),
            (self.folder / ANSWERS).open("a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(answer, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.answers.append(answer)

    def _drop_partial_line(self) -> None:
        """Cut off a line that was being written when an earlier process died."""
        path = self.folder / ANSWERS
        if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)


def digest(spec: dict) -> str:
    """What tells two runs apart."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def variants_of(spec: dict, recipe: dict) -> list[str]:
    """The variants that a run of `spec` asks of one of its models."""
    precisions = spec["variants"] or ["fp32", f"int{WEIGHT_DTYPES[recipe['quantization']['weight_dtype']]}"]
    return [str(Variant(precision, engine)) for engine in spec.get("engines", (NATIVE,)) for precision in precisions]


def place(runs: Path, spec: dict) -> Path:
    """The folder of the interrupted run of this spec that nobody is writing, or of a new one."""
    for folder in reversed(existing(runs)):
        try:
            record = RunRecord.read(folder)
            _locked(folder).release()
        except RunError:
            continue
        if record.content["digest"] == digest(spec) and not record.content["complete"]:
            return folder
    stem = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder, number = runs / stem, 1
    while folder.exists():
        folder, number = runs / f"{stem}-{number}", number + 1
    return folder


def existing(runs: Path) -> list[Path]:
    """The folders of all runs, the oldest first."""
    return sorted(path.parent for path in runs.glob(f"*/{RUN}"))


def _locked(folder: Path) -> FileLock:
    lock = FileLock(folder / ".lock")
    try:
        with files.disk_errors(RunError, _("Writing the run {folder}", folder=folder)):
            lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            _(
                "Another process is writing the run {folder}; wait for it or name another folder with --out.",
                folder=folder,
            )
        ) from None
    return lock


def _read_answers(path: Path) -> list[dict]:
    """The whole lines; an unfinished last one does not count."""
    if not path.exists():
        return []
    lines = path.read_text("utf-8", errors="replace").split("\n")[:-1]
    answers = []
    for number, line in enumerate(lines, 1):
        try:
            answer = json.loads(line)
            answer["id"], answer["model"], answer["variant"], answer["text"], answer["token_ids"]
        except (ValueError, KeyError, TypeError):
            raise RunError(
                _("{path}: line {number} is not an answer; remove the line to ask it again.", path=path, number=number)
            ) from None
        answers.append(answer | {"text": printable(answer["text"])})
    return answers
