"""Files that this program wrote, read back: one sentence for each way in which they can be unusable."""

import json

import pytest

from itrex_chat.foundation import stored
from itrex_chat.foundation.errors import RecipeError, RunError
from itrex_chat.ratings import given, judgements


@pytest.mark.parametrize(
    "content, reason",
    [
        ('{"format": 2, "a": 1}', "another version"),
        ('{"format": 1}', "is damaged"),
        ('{"a": 1}', "is damaged"),
        ("[]", "is damaged"),
        ("{", "is damaged"),
        (b"\xff", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ('{"format": 1, "a": ' + "1" * 5000 + "}", "is damaged"),
        (None, "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_named_in_a_sentence(tmp_path, content, reason):
    file = tmp_path / "file.json"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecipeError, match=f"file.json.*{reason}"):
        stored.read(file, 1, lambda found: found["a"], RecipeError)


def test_what_is_right_is_read(tmp_path):
    (tmp_path / "file.json").write_text('{"format": 1, "a": 5}', "utf-8")
    assert stored.read(tmp_path / "file.json", 1, lambda found: found["a"]) == 5


@pytest.mark.parametrize("room, name", [(given.ratings_of, given.RATINGS), (judgements.read, judgements.FILE)])
def test_ratings_and_judgements_of_another_version_are_not_called_damaged(tmp_path, room, name):
    assert not room(tmp_path)
    (tmp_path / name).write_text(json.dumps({"format": 9}), "utf-8")
    with pytest.raises(RunError, match="another version"):
        room(tmp_path)
    (tmp_path / name).write_text(json.dumps({"format": 1, "judge": "x", "models": [], "sheets": [5]}), "utf-8")
    with pytest.raises(RunError, match="damaged"):
        room(tmp_path)
