"""The record of a run: `run.json` for what was asked of whom, `answers.jsonl` with a line for each answer.

Answers are appended as they come and synced, so that a run that is killed
loses at most the answer it was in; the same run then goes on behind it.
"""

import errno
import json
import os
import stat
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itrex_chat.foundation import files, machine, stored
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.harmless import encodable
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.jobs.answer import Answer
from itrex_chat.runs.content import FORMAT_VERSION, ModelRun, Run, Spec, VariantRun, checked
from itrex_chat.settings.quantization import WEIGHT_DTYPES
from itrex_chat.settings.variant import NATIVE, Variant, titled

if TYPE_CHECKING:
    from filelock import FileLock

RUN, ANSWERS = "run.json", "answers.jsonl"
LARGEST = 256 << 20  # bytes of answers
SYNCED = 0.1  # seconds between two times that answers are synced, where many come at a time
SPARING = 20  # times as long as writing `run.json` takes, until it is written again
AHEAD = 3600  # seconds that the clock of a disk may be ahead of ours


class RunRecord:
    """One run's folder. `content` is what `run.json` holds; `answers` the answers so far."""

    def __init__(self, folder: Path, content: Run, answers: list[Answer]):
        self.folder, self.content, self.answers = folder, content, answers
        self._lock: FileLock | None = None
        self.sparing = False  # whether what `note` sets may be written later, where writing takes long
        self._saved, self._took = 0.0, 0.0  # when it was written, and the seconds that this took
        self._synced = 0.0  # when answers were

    @classmethod
    def read(cls, folder: Path) -> "RunRecord":
        """A run that exists. Raises RunError."""
        path = folder / RUN
        if not os.path.exists(path):  # not Path.exists, which raises errors of its own
            raise RunError(
                _(
                    "{folder} holds no run: {name} cannot be read ({reason}).",
                    folder=folder,
                    name=RUN,
                    reason=os.strerror(errno.ENOENT),
                )
            )
        return cls(folder, stored.read(path, FORMAT_VERSION, Run.of), _read_answers(folder / ANSWERS))

    @classmethod
    def start(cls, folder: Path, spec: Spec | Mapping[str, Any]) -> "RunRecord":
        """A new run in `folder`, or the one in it if it is of the same `spec`, to be written. Raises RunError."""
        return cls._open(folder, Spec.of(spec))

    @classmethod
    def go_on(cls, folder: Path) -> "RunRecord":
        """The run in `folder`, to be written. Raises RunError."""
        return cls._open(folder, cls.read(folder).content.spec)

    @classmethod
    def _open(cls, folder: Path, spec: Spec) -> "RunRecord":
        files.writable(folder, RunError)
        with files.disk_errors(RunError, _("Writing the run {folder}", folder=folder)):
            lock = _locked(folder)
            try:
                record = cls._same(folder, spec) if (folder / RUN).exists() else cls._new(folder, spec)
                record._drop_partial_line()
            except BaseException:
                lock.release()
                raise
        record._lock = lock
        return record

    @classmethod
    def _same(cls, folder: Path, spec: Spec) -> "RunRecord":
        record = cls.read(folder)
        if spec.digest not in (record.content.digest, record.content.spec.digest):
            raise RunError(
                _(
                    "{folder} holds another run (other models, questions or settings); name another folder with --out.",
                    folder=folder,
                )
            )
        return record

    @classmethod
    def _new(cls, folder: Path, spec: Spec) -> "RunRecord":
        if any(path.name != ".lock" for path in folder.iterdir()):
            raise RunError(_("{folder} is not empty and holds no run; name another folder with --out.", folder=folder))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = cls(folder, Run(FORMAT_VERSION, spec.digest, spec, now, machine.description(), False, {}), [])
        record.save()
        return record

    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def save(self) -> None:
        with files.disk_errors(RunError, _("Writing the run {folder}", folder=self.folder)):
            files.write_json(self.folder / RUN, self.content.as_dict())

    def model(self, label: str) -> ModelRun:
        """What is known of a model in this run."""
        return self.content.models.setdefault(label, ModelRun())

    def note(self, label: str, variant: str, **facts: Any) -> None:
        """Set facts about a variant, `VariantRun`'s fields, and save them."""
        variants = self.model(label).variants
        known = variants[variant].as_dict() if variant in variants else {}
        variants[variant] = VariantRun.of(known | facts)
        self.save_soon()

    def save_soon(self) -> None:
        """Save; where the record is `sparing`, a twentieth of the time at most. `finish` saves in the end."""
        began = time.monotonic()
        if not self.sparing or began - self._saved >= SPARING * self._took:
            self.save()
            self._saved = time.monotonic()
            self._took = self._saved - began

    def answered(self, label: str, variant: str) -> set[str]:
        """The questions that a variant has answered."""
        return {answer.id for answer in self.answers_of(label, variant)}

    def finish(self) -> None:
        """Note whether everything was asked."""
        states = [facts.state for model in self.content.models.values() for facts in model.variants.values()]
        self.content.complete = all(state in ("done", "skipped") for state in states)
        self.save()

    def answers_of(self, label: str, variant: str) -> list[Answer]:
        return [answer for answer in self.answers if (answer.model, answer.variant) == (label, variant)]

    def made_on(self, described: Mapping[str, Any]) -> str | None:
        """What answers call the machine of a description; None for the run's own. Another one is kept in the record."""
        if not described or machine.same(self.content.machine, dict(described)):
            return None
        name = machine.called(dict(described))
        known = self.content.machines or {}
        if name not in known:
            self.content.machines = known | {name: dict(described)}
            self.save()
        return name

    def append(self, answer: Answer) -> None:
        """Keep an answer, on disk before this returns; where the record is `sparing`, a tenth of a second later at most, should
        the power fail."""
        with (
            files.disk_errors(RunError, _("Writing the run {folder}", folder=self.folder)),
            (self.folder / ANSWERS).open("a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(answer.as_dict(), ensure_ascii=False) + "\n")
            file.flush()
            if not self.sparing or time.monotonic() - self._synced >= SYNCED:
                os.fsync(file.fileno())
                self._synced = time.monotonic()
        self.answers.append(answer)

    def write(self, answers: list[Answer]) -> None:
        """Keep these answers, in this order, instead of those that are there; whole or not at all."""
        lines = "".join(json.dumps(answer.as_dict(), ensure_ascii=False) + "\n" for answer in answers)
        with files.disk_errors(RunError, _("Writing the run {folder}", folder=self.folder)):
            files.write_text(self.folder / ANSWERS, lines)
        self.answers = answers
        self.save()

    def put_in_order(self) -> None:
        """Have models and answers in the order of the run's spec, variants and questions, in which one process gives them."""
        labels = [model.label for model in self.content.spec.models]
        known = self.content.models
        self.content.models = {label: known[label] for label in labels if label in known}
        places = {
            (label, variant, question.id): (number, rank, place)
            for number, (label, facts) in enumerate(self.content.models.items())
            for rank, variant in enumerate(self._variants(label, facts))
            for place, question in enumerate(facts.questions or ())
        }
        last = (len(labels), 0, 0)
        ordered = sorted(self.answers, key=lambda each: places.get((each.model, each.variant, each.id), last))
        if ordered != self.answers:
            self.write(ordered)

    def _variants(self, label: str, facts: ModelRun) -> list[str]:
        """The variants of a model, as they are asked: those whose weights are read from disk for each pass last."""
        asked = variants_of(self.content.spec, self.content.spec.recipe(label) or {})
        streamed = {name for name, run in facts.variants.items() if run.load and run.load.streamed_bytes}
        facts.variants = {name: facts.variants[name] for name in asked if name in facts.variants} | facts.variants
        return sorted(asked, key=streamed.__contains__)

    def _drop_partial_line(self) -> None:
        """Cut off a line that was being written when an earlier process died."""
        path = self.folder / ANSWERS
        if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)


def variants_of(spec: Spec | Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    """The variants that a run of `spec` asks of one of its models."""
    spec = Spec.of(spec)
    precisions = spec.variants or ["fp32", f"int{WEIGHT_DTYPES[recipe['quantization']['weight_dtype']]}"]
    return [str(Variant(precision, engine)) for engine in spec.engines or (NATIVE,) for precision in precisions]


def place(runs: Path, spec: Spec | Mapping[str, Any]) -> Path:
    """The folder of the interrupted run of this spec that nobody is writing, or of a new one."""
    digest = Spec.of(spec).digest
    for folder in reversed(existing(runs)):
        try:
            record = RunRecord.read(folder)
            _locked(folder).release()
        except RunError:
            continue
        if record.content.digest == digest and not record.content.complete:
            return folder
    stem = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder, number = runs / stem, 1
    while folder.exists():
        folder, number = runs / f"{stem}-{number}", number + 1
    return folder


def existing(runs: Path) -> list[Path]:
    """The folders of all runs, the oldest first."""
    return sorted(path.parent for path in runs.glob(f"*/{RUN}"))


def latest() -> Path:
    """The newest run in the cache that has an answer. Raises RunError when there is none."""
    runs = [run for run in existing(cache_home() / "runs") if _answered_at(run)]
    if not runs:
        raise RunError(_("There is no run to compare yet; make one with: python -m itrex_chat.ask"))
    return max(runs, key=lambda run: (_answered_at(run), run.name))


def _answered_at(run: Path) -> int:
    """When a run got its last answer, in nanoseconds; 0 for a run without any, 1 where a wrong clock said tomorrow."""
    try:
        found = (run / ANSWERS).stat()
    except OSError:
        return 0
    if not found.st_size or not stat.S_ISREG(found.st_mode):
        return 0
    return found.st_mtime_ns if found.st_mtime < time.time() + AHEAD else 1


def folder_of(run: Path) -> Path:
    """The folder of a run that is named by it, or by its answers."""
    return run.parent if run.name == ANSWERS and run.is_file() else run


def answers_of(run: Path, variant: str) -> list[Answer]:
    """What a variant answered in a run, all its models' answers. Raises RunError where there is nothing."""
    answers = [answer for answer in RunRecord.read(run).answers if answer.variant == variant]
    if not answers:
        raise RunError(_("{run} has no answers of {variant}.", run=run, variant=titled(variant)))
    return answers


def _locked(folder: Path) -> "FileLock":
    from filelock import FileLock, Timeout

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


def _read_answers(path: Path) -> list[Answer]:
    """The whole lines; an unfinished last one does not count."""
    if not os.path.lexists(path):
        return []
    lines = files.text_of(path, RunError, LARGEST, errors="replace").split("\n")[:-1]
    return [_read_answer(line, number, path) for number, line in enumerate(lines, 1)]


def _read_answer(line: str, number: int, path: Path) -> Answer:
    try:
        values = stored.parsed_json(line)
        return checked(Answer, values | {"text": encodable(values["text"])})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RunError(
            _("{path}: line {number} is not an answer; remove the line to ask it again.", path=path, number=number)
        ) from None
