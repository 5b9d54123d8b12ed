"""Comparisons that are shown to whoever has their link: files, no more than fit, the oldest given up first."""

import hashlib
import json
import re
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from itrex_chat.foundation import files, stored
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.ratings.votes import Vote
from itrex_chat.runs.gathered import Made
from itrex_chat.server.errors import ApiError

FORMAT_VERSION = 1
MOST, LARGEST, LARGEST_OF_ONE = 500, 256_000_000, 8_000_000  # comparisons, bytes of all and of each
FOLDER = ".shared"
FILE = re.compile(r"[0-9a-f]{64}\.json")


class Shares:
    """In a folder within `runs` (None: that of the cache). A file is called by the digest of its link's name: who sees the files does not
    know the links, and no name that is asked for becomes a path. Not to be used by two threads at a time."""

    def __init__(self, runs: Path | None = None, most: int = MOST, largest: int = LARGEST):
        self._runs, self._most, self._largest = runs, most, largest
        self._known: OrderedDict[str, tuple[Path, int]] | None = None  # by digest: the file and its bytes

    def add(self, rounds: Sequence[tuple[Sequence[Made], Vote | None]]) -> str:
        """Keep a comparison; the name by which it is found. Raises ApiError, RunError."""
        content = {
            "format": FORMAT_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "rounds": [_round(found, vote) for found, vote in rounds],
        }
        size = len(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))
        if size > LARGEST_OF_ONE:
            raise ApiError(413, _("The conversation is too long to be shared."), code="too_large")
        name = secrets.token_urlsafe(24)
        known, folder = self._listed(), self._folder
        files.writable(folder, RunError)
        path = folder / f"{_digest(name)}.json"
        with files.disk_errors(RunError, _("Writing {path}", path=path)):
            files.write_json(path, content, files.PRIVATE)
            known[_digest(name)] = path, path.stat().st_size
            while len(known) > self._most or sum(bytes for _path, bytes in known.values()) > self._largest:
                _oldest, (file, _bytes) = known.popitem(last=False)
                file.unlink(missing_ok=True)
        return name

    def find(self, name: str) -> dict[str, Any]:
        """Raises ApiError for what is not kept, or not any more, RunError for a file that is damaged."""
        path, _size = self._listed().get(_digest(name), (None, 0))
        if path is None or not path.is_file():
            raise ApiError(404, _("Nothing is shared under this link, or not any more."), code="not_found")
        return stored.read(path, FORMAT_VERSION, dict)

    @property
    def _folder(self) -> Path:
        return (self._runs or cache_home() / "runs") / FOLDER

    def _listed(self) -> "OrderedDict[str, tuple[Path, int]]":
        if self._known is None:
            found = [path for path in self._folder.glob("*.json") if FILE.fullmatch(path.name)]
            states = sorted(
                ((path.stat(), path) for path in found), key=lambda pair: (pair[0].st_mtime_ns, pair[1].name)
            )
            self._known = OrderedDict((path.stem, (path, state.st_size)) for state, path in states)
        return self._known


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()


def _round(found: Sequence[Made], vote: Vote | None) -> dict[str, Any]:
    return {
        "question": found[0].turns[-1],
        "system": found[0].system,
        "answers": [_answer(made) for made in found],
        "vote": vote and {"best": list(vote.best), "blind": vote.blind},
    }


def _answer(made: Made) -> dict[str, Any]:
    answer = made.answer
    return {
        "model": f"{answer.model}:{answer.variant}",
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "tokens": answer.new_tokens,
        "tokens_per_second": answer.tokens_per_second,
        "ttft": answer.ttft,
        "together": answer.batch or 1,
        "generation": made.generation(),
    }
