"""The page at `/`: its files, and the question sets that it offers. All of it comes from here, nothing from elsewhere."""

from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from itrex_chat.foundation.errors import QuestionSetError
from itrex_chat.settings import questions

FOLDER = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
PATHS = {"/": "index.html"} | {
    f"/page/{file.name}": file.name
    for file in sorted(FOLDER.iterdir())
    if file.suffix in KINDS and file.suffix != ".html"
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


def router() -> APIRouter:
    """The files can be had without a key (`PATHS`); they ask for it, and whatever they ask the server has it."""
    found = APIRouter(include_in_schema=False)
    for path, name in PATHS.items():
        found.add_api_route(path, _sender(name), response_model=None)
    found.add_api_route("/page/questions", _questions)
    return found


def _sender(name: str) -> Any:
    def send() -> Response:
        return Response(_content(name), media_type=f"{KINDS[Path(name).suffix]}; charset=utf-8", headers=HEADERS)

    return send


@cache
def _content(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def _questions() -> list[dict[str, Any]]:
    """The sets that come with the program and can be read."""
    found = []
    for name in questions.names():
        try:
            loaded = questions.load(name)
        except QuestionSetError:
            continue  # somebody is writing it; the verbs say what is wrong with it
        asked = [{"id": each.id, "category": each.category, "text": each.text} for each in loaded.questions]
        found.append({"name": name, "language": loaded.language, "system": loaded.system, "questions": asked})
    return found
