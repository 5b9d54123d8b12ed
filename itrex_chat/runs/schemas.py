"""The JSON schemas of a run's files, as the types have them; this writes them beside itself:

python -m itrex_chat.runs.schemas
"""

from pathlib import Path
from typing import Any

from itrex_chat.foundation import files
from itrex_chat.foundation.stored import adapter
from itrex_chat.jobs.answer import Answer
from itrex_chat.runs.content import FORMAT_VERSION, Run

DIALECT = "https://json-schema.org/draft/2020-12/schema"
KINDS = {
    "run.schema.json": (Run, f"run.json of itrex_chat, format {FORMAT_VERSION}"),
    "answer.schema.json": (Answer, f"A line of answers.jsonl of itrex_chat, format {FORMAT_VERSION} of its run.json"),
}


def schema(name: str) -> dict[str, Any]:
    """The schema that belongs into the file `name`, of KINDS."""
    kind, title = KINDS[name]
    found = adapter(kind).json_schema()
    return {"$schema": DIALECT, **_untitled(found), "title": title}


def _untitled(part: Any) -> Any:
    """Without pydantic's titles, which only repeat the names."""
    if isinstance(part, list):
        return [_untitled(each) for each in part]
    if not isinstance(part, dict):
        return part
    return {key: _untitled(value) for key, value in part.items() if key != "title" or not isinstance(value, str)}


if __name__ == "__main__":
    for name in KINDS:
        files.write_json(Path(__file__).with_name(name), schema(name))
