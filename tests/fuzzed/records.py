"""Runs whose files somebody edited: compared, gated, judged, rated, gone on with, or named in a sentence."""

import shutil
from pathlib import Path
from random import Random

from fuzzed.case import Case
from fuzzed.values import TEXTS, as_json, damaged, mutated, plain
from itrex_chat import compare, sheet
from itrex_chat.comparison import gate
from itrex_chat.foundation.errors import ItrexChatError, RunError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import speaking
from itrex_chat.foundation.places import cache_home
from itrex_chat.quality import record as quality_record
from itrex_chat.ratings import given, judgements
from itrex_chat.report.terminal import as_text
from itrex_chat.runs.record import ANSWERS, RUN, RunRecord, latest, place

SHEET = "sheet.csv"
FILES = (
    RUN,
    RUN,
    RUN,
    ANSWERS,
    ANSWERS,
    ANSWERS,
    quality_record.FILE,
    judgements.FILE,
    given.RATINGS,
    SHEET,
    "sheets/abc123.json",
)
CONDITIONS = ("kld_mean>0.1", "speedup<1", "identical<1", "chrf<5", "same_top<0.5", "peak_memory>1e9")


def make(random: Random, folder: Path, seeds: Path) -> Case:
    run = cache_home() / "runs" / random.choice(("20260101-000000", "模型", "a b"))
    shutil.copytree(seeds / "run", run)
    done = []
    for _time in range(random.choice((1, 1, 1, 2))):
        file = run / random.choice(FILES)
        if file.is_file():
            done.append(_change(random, file))
    condition, language = random.choice(CONDITIONS), random.choice(("en", "zh"))
    return Case(f"{', '.join(done)}", lambda: _use(run, seeds / "run", condition, language))


def _use(run: Path, good: Path, condition: str, language: str) -> None:
    """All that is done with a run; each may refuse it, the first sentence is told at the end."""
    spec = RunRecord.read(good).content.spec
    refused = None
    for use in (
        lambda: _compared(run, condition, language),
        lambda: sheet.read(run / SHEET, run),
        lambda: sheet.make(run, run / "new.csv"),
        lambda: RunRecord.go_on(run).close(),
        lambda: RunRecord.start(run, spec).close(),
        lambda: place(cache_home() / "runs", spec),
        lambda: latest(),
        lambda: compare.compare([good, run], run / "both"),
    ):
        try:
            use()
        except ItrexChatError as error:
            refused = refused or error
    if refused:
        raise refused


def _compared(run: Path, condition: str, language: str) -> None:
    with speaking(language):
        comparison = compare.compare([run])
        tell(as_text(comparison))
        for name in compare.FILES:
            content = (run / name).read_text("utf-8")
            assert "\x1b" not in content and "\u202e" not in content, name
        try:
            gate.failures(comparison, [gate.parse(condition)])
        except RunError as error:  # a figure is not there
            assert str(error)


def _change(random: Random, file: Path) -> str:
    content, how = file.read_bytes(), random.random()
    if how < 0.1 or file.name == SHEET:
        changed = _cells(content, random) if file.name == SHEET and how < 0.8 else damaged(content, random)
    elif file.name == ANSWERS:
        changed = _lines(content, random)
    else:
        changed = as_json(mutated(plain(content), random), random, 0.08)
    file.write_bytes(changed)
    return file.name


def _lines(content: bytes, random: Random) -> bytes:
    lines = content.splitlines(keepends=True)
    at, how = random.randrange(len(lines)) if lines else 0, random.random()
    if not lines:
        return b"\n"
    if how < 0.7:
        lines[at] = as_json(mutated(plain(lines[at]), random), random, 0.03).replace(b"\n", b" ") + b"\n"
    elif how < 0.8:
        lines.insert(random.randrange(len(lines)), lines[at])
    elif how < 0.9:
        del lines[at]
    else:
        lines[at] = random.choice(
            (b"\n", b"null\n", b"{}\n", b"[]\n", lines[at].rstrip(b"\n"), lines[at][: len(lines[at]) // 2])
        )
    return b"".join(lines)


def _cells(content: bytes, random: Random) -> bytes:
    """Other cells in a score sheet, or another encoding of it."""
    text = content.decode("utf-8-sig", "replace")  # a change before this one may have spoilt it
    rows = [line.split(",") for line in text.split("\r\n")]
    for _time in range(random.choice((1, 4, 9))):
        row = random.choice(rows)
        row[random.randrange(len(row))] = str(random.choice((*TEXTS, "5", "★★", "-", "6", '"', *map(str, range(1, 6)))))
    joined = "\r\n".join(random.choice(",,,;\t").join(row) for row in rows)
    return joined.encode(random.choice(("utf-8", "utf-8-sig", "gb18030", "utf-16")), "replace")
