"""Merging: the shards of a run become the record that one process would have written.

What is joined is checked first: that the parts are of one run, of the same weights, and agree where they overlap; that none is
missing. What is missing is named with the command that makes it, and nothing is written then.
"""

import dataclasses
import os
import shlex
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from itrex_chat.foundation import files, machine
from itrex_chat.foundation.errors import ItrexChatError, RunError
from itrex_chat.foundation.language import _
from itrex_chat.jobs.answer import Answer
from itrex_chat.runs.content import ModelRun, Run, Spec, VariantRun, plain
from itrex_chat.runs.identity import differences, replaced
from itrex_chat.runs.record import RUN, RunRecord, variants_of
from itrex_chat.settings.questions import Question
from itrex_chat.settings.shard import Shard
from itrex_chat.settings.variant import titled

NAMED = 3  # of what is missing, in a sentence
Parts = list[tuple[Shard, RunRecord]]


def merge(folders: Iterable[Path], out: Path) -> RunRecord:
    """Join the shards in these folders into a run in `out`; where it is there already, nothing changes.

    Raises RunError where they are not all the parts of one run.
    """
    parts = _parts(list(folders))
    try:
        _check_one_run(parts)
        merged = RunRecord(out, _content(parts), list(_answers(parts)))
        missing = list(_missing(parts, merged))
    except ItrexChatError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(
            _(
                "{runs}: the record of the run is damaged ({reason}).",
                runs=", ".join(str(record.folder) for _shard, record in parts),
                reason=" ".join(f"{type(error).__name__}: {error}".split())[:200],
            )
        ) from error
    if missing:
        more = _(" and {count} more", count=len(missing) - NAMED) if len(missing) > NAMED else ""
        raise RunError(_("The run is not whole: {missing}{more}.", missing="; ".join(missing[:NAMED]), more=more))
    merged.content.complete = True
    _write(merged)
    return merged


def _parts(folders: list[Path]) -> Parts:
    """The shards in the order of their numbers."""
    parts: Parts = []
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        record = RunRecord.read(folder)
        if record.content.spec.shard is None:
            raise RunError(_("{folder} is a whole run and no shard; there is nothing to merge in it.", folder=folder))
        parts.append((Shard.parse(record.content.spec.shard), record))
    return sorted(parts, key=lambda part: (part[0].number, part[1].content.created, str(part[1].folder)))


def _whole(spec: Spec) -> Spec:
    return dataclasses.replace(spec, shard=None)


def _check_one_run(parts: Parts) -> None:
    """Raise RunError where the parts are of different runs, divisions, or models that are called the same."""
    (shard, first), *others = parts
    for other, record in others:
        if _whole(record.content.spec).digest != _whole(first.content.spec).digest:
            raise RunError(
                _(
                    "{first} and {second} are parts of different runs (other models, questions or settings); merge them "
                    "apart.",
                    first=first.folder,
                    second=record.folder,
                )
            )
        if other.count != shard.count:
            raise RunError(
                _(
                    "{first} is one of {count} parts, and {second} one of {other}; merge parts of one division.",
                    first=first.folder,
                    second=record.folder,
                    count=shard.count,
                    other=other.count,
                )
            )
    for model in first.content.spec.models:
        known = [record for _shard, record in parts if model.label in record.content.models]
        for record in known[1:]:
            _check_same_model(model.label, known[0], record)


def _check_same_model(label: str, first: RunRecord, other: RunRecord) -> None:
    """Raise RunError where a model was another one, or asked otherwise, in one of the parts."""
    one, two = first.content.models[label], other.content.models[label]
    found = differences(label, (first.content, one), (other.content, two))
    found += [
        f"{name} {getattr(one, name)!r}/{getattr(two, name)!r}"
        for name in ("question_set", "system", "languages")
        if getattr(one, name) != getattr(two, name)
    ]
    if machine.called(first.content.machine) == machine.called(other.content.machine):  # stamps of one disk
        for name in one.variants.keys() & two.variants.keys():
            load, again = one.variants[name].load, two.variants[name].load
            if load and again and replaced(load.files, again.files):
                found.append(_("{variant} of other files", variant=titled(name)))
    if found:
        raise RunError(
            _(
                "{first} and {second} asked {model} differently, or another model of that name ({differences}); they are no "
                "parts of one run.",
                first=first.folder,
                second=other.folder,
                model=label,
                differences=", ".join(found),
            )
        )


def _content(parts: Parts) -> Run:
    """`run.json` of the whole run."""
    records = [record for _shard, record in parts]
    spec, own = _whole(records[0].content.spec), records[0].content.machine
    named = {machine.called(record.content.machine): record.content.machine for record in records}
    for record in records:
        named |= record.content.machines or {}
    others = {name: described for name, described in named.items() if name != machine.called(own)}
    models = {model.label: _model(model.label, records) for model in spec.models}
    return Run(
        records[0].content.format,
        spec.digest,
        spec,
        min(record.content.created for record in records),
        own,
        False,
        {label: facts for label, facts in models.items() if facts is not None},
        _commands(records),
        others or None,
    )


def _commands(records: list[RunRecord]) -> list[str] | None:
    """The command that makes the whole run, by one that made a part."""
    given = next((command for record in records for command in record.content.commands or ()), None)
    return [_command(given, None, None)] if given else None


def _model(label: str, records: list[RunRecord]) -> ModelRun | None:
    """What the parts know of a model; None where it is in none of them."""
    known = [record.content.models[label] for record in records if label in record.content.models]
    if not known:
        return None
    prepared = next((facts for facts in known if facts.questions is not None), known[0])
    questions: dict[str, Question] = {}
    for facts in known:
        questions |= {question.id: question for question in facts.questions or ()}
    names = dict.fromkeys(name for facts in [prepared, *known] for name in facts.variants)
    needs = [facts.needs for facts in known if facts.needs]
    merged = ModelRun.of(prepared.as_dict())
    merged.questions = list(questions.values()) if prepared.questions is not None else None
    merged.variants = {
        name: _variant([facts.variants[name] for facts in known if name in facts.variants]) for name in names
    }
    merged.needs = {name: max(need.get(name, 0) for need in needs) for need in needs for name in need} or prepared.needs
    return merged


def _variant(found: list[VariantRun]) -> VariantRun:
    """A variant in all parts: skipped where each skipped it, else done, as it is once no answer is missing."""
    if all(facts.state == "skipped" for facts in found):
        return found[0]
    [first, *_more] = [facts for facts in found if facts.load] or found
    peaks = [facts.peak_memory for facts in found if facts.peak_memory]
    return dataclasses.replace(first, state="done", reason=None, peak_memory=max(peaks, default=None))


def _answers(parts: Parts) -> Iterator[Answer]:
    """All answers in the order in which one process gives them. Raises RunError where two parts contradict each other."""
    found: dict[tuple[str, str, str], tuple[Answer, RunRecord]] = {}
    own = machine.called(parts[0][1].content.machine)
    for _shard, record in parts:
        here = machine.called(record.content.machine)
        for answer in record.answers:
            name = answer.machine or here
            answer = dataclasses.replace(answer, machine=None if name == own else name)
            earlier, holder = found.setdefault((answer.model, answer.variant, answer.id), (answer, record))
            if (earlier.token_ids, earlier.text) != (answer.token_ids, answer.text):
                raise RunError(
                    _(
                        "{first} and {second} have different answers of {model} {variant} to {id}; they are no parts of one "
                        "run.",
                        first=holder.folder,
                        second=record.folder,
                        model=answer.model,
                        variant=titled(answer.variant),
                        id=answer.id,
                    )
                )
    content = _content(parts)
    for label, facts in content.models.items():
        for variant in facts.variants:
            for question in facts.questions or ():
                if known := found.get((label, variant, question.id)):
                    yield known[0]


def _missing(parts: Parts, merged: RunRecord) -> Iterator[str]:
    """What is not there, each with the command that makes it."""
    count, numbered = parts[0][0].count, dict[int, list[RunRecord]]()
    for shard, record in parts:
        numbered.setdefault(shard.number, []).append(record)
    commands = [command for _shard, record in parts for command in record.content.commands or ()]
    answered = {(answer.model, answer.variant, answer.id) for answer in merged.answers}
    for number in range(1, count + 1):
        shard, records = Shard(number, count), numbered.get(number)
        if records is None:
            place = parts[0][1].folder.with_name(f"{number}-of-{count}")
            yield _("shard {shard} is missing ({command})", shard=shard, command=_made_by(commands, shard, place))
        elif names := _open(shard, records, merged, answered):
            last = records[-1]
            command = _made_by(last.content.commands or commands, shard, last.folder)
            yield _(
                "shard {shard} has not answered all with {names} ({command})",
                shard=shard,
                names=", ".join(dict.fromkeys(names)),
                command=command,
            )


def _open(shard: Shard, records: list[RunRecord], merged: RunRecord, answered: set[tuple[str, str, str]]) -> list[str]:
    """The models and variants that have not answered all that a shard asks. What all parts skipped is no gap."""
    found, spec = list[str](), merged.content.spec
    for index, model in enumerate(spec.models):
        known = [record.content.models[model.label] for record in records if model.label in record.content.models]
        asked = next((facts.questions for facts in known if facts.questions is not None), None)
        if asked is None:
            whole = any(record.content.complete for record in records)
            found += [model.label] if shard.has_model(index, len(spec.models)) and (known or not whole) else []
            continue
        for variant in variants_of(spec, model.recipe):
            skipped = merged.content.models[model.label].variants.get(variant, VariantRun("waiting")).state == "skipped"
            if not skipped and any((model.label, variant, question.id) not in answered for question in asked):
                found.append(f"{model.label} {titled(variant)}")
    return found


def _made_by(commands: list[str], shard: Shard, folder: Path) -> str:
    """The command that makes a shard in a folder."""
    given = commands[0] if commands else "python -m itrex_chat.ask …"
    return _command(given, shard, folder)


def _command(given: str, shard: Shard | None, folder: Path | None) -> str:
    """A command with another --shard and --out, or without them."""
    kept, words = list[str](), iter(shlex.split(given))
    for word in words:
        if word in ("--shard", "--out"):
            next(words, None)
        elif not word.startswith(("--shard=", "--out=")):
            kept.append(word)
    kept += ["--shard", str(shard)] if shard else []
    return shlex.join([*kept, *(["--out", str(folder)] if folder else [])])


def _write(merged: RunRecord) -> None:
    """Write the run whole, or not at all; leave one that is the same as it is. Raises RunError."""
    out = merged.folder
    with files.disk_errors(RunError, _("Writing the run {folder}", folder=out)):
        out.parent.mkdir(parents=True, exist_ok=True)
        if (out / RUN).exists():
            _check_same(merged)
            return
        if out.exists() and any(out.iterdir()):
            raise RunError(_("{folder} is not empty and holds no run; name another folder with --out.", folder=out))
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name[:40]}.", suffix=".partial") as made:
            whole = Path(made) / "run"
            whole.mkdir()
            RunRecord(whole, merged.content, []).write(merged.answers)
            os.replace(whole, out)
        files.sync_folder(out.parent)


def _check_same(merged: RunRecord) -> None:
    """Raise RunError where the folder holds something else than what would be written."""
    there = RunRecord.read(merged.folder)
    both = [(each.content.spec.digest, plain(each.content.models), each.answers) for each in (there, merged)]
    if both[0] != both[1]:
        raise RunError(
            _(
                "{folder} holds another run than these shards make; name another folder with --out.",
                folder=merged.folder,
            )
        )
