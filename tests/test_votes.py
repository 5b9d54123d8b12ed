"""Votes, runs and links of the page: what the server keeps of its answers, and what it refuses."""

import dataclasses
import http.client
import json
import shutil

import pytest
from open_page import without_models
from run_schemas import keeps_its_schemas

from itrex_chat import compare as comparing
from itrex_chat.foundation.errors import RunError
from itrex_chat.jobs.answer import Answer
from itrex_chat.jobs.event import Facts, OriginalFiles
from itrex_chat.ratings import given
from itrex_chat.ratings.votes import Vote, tally
from itrex_chat.report.terminal import as_text
from itrex_chat.runs import gathered
from itrex_chat.runs.gathered import Made
from itrex_chat.runs.record import RunRecord
from itrex_chat.server.access import Access
from itrex_chat.server.collected import Collected
from itrex_chat.server.errors import ApiError
from itrex_chat.server.kept import KeptAnswers
from itrex_chat.server.shares import Shares
from itrex_chat.settings import questions as question_sets
from itrex_chat.settings import recipe as recipes

WIDE, NARROW, OTHER = ("m", "fp32"), ("m", "int4"), ("n", "int4")
ORDER = ["fp32", "int4"]
KEY = "a-key-of-the-tests"


def vote(best: tuple[int, ...], question: str = "a", answers=(WIDE, NARROW), blind: bool = False, id: str = "") -> Vote:
    return Vote(id or f"{question} {best} {answers}", question, answers, best, blind)


def made(
    variant: str = "fp32", text: str = "Hello.", turns=("Hi?",), name: str = "", files: str = "1", **settings
) -> Made:
    """An answer as the server keeps it. `settings` of its generation."""
    recipe = recipes.load(recipes.EMBEDDED)
    seeded = settings.pop("seeded", False)
    generation = dataclasses.replace(recipe.generation, **settings)
    answer = Answer(
        id=name or f"chatcmpl-{variant}-{text}",
        model=recipe.name,
        variant=variant,
        text=text,
        token_ids=list(map(ord, text)),
        prompt_token_ids=[1, 2, len(turns)],
        finish_reason="stop",
        prompt_tokens=3,
        new_tokens=len(text),
        ttft=0.1,
        tpot=0.01,
        tokens_per_second=100.0,
        prefill_tokens_per_second=None,
        seconds=0.2,
    )
    facts = Facts(
        1.0, 10**8, 2, "native", "", "fp32", 10**6, 10**6, "F16", {"kind": "local"}, files=OriginalFiles(files)
    )
    return Made(answer, turns, "", dataclasses.replace(recipe, generation=generation), seeded, facts, 10**8)


def both(question: str = "Hi?", **settings) -> list[Made]:
    return [
        made("fp32", "Hello.", (question,), **settings),
        made("int4", f"{question} Hullo.", (question,), **settings),
    ]


def asked(folder) -> dict:
    """A run's questions by their ids."""
    [facts] = RunRecord.read(folder).content.models.values()
    return {question.id: question.text for question in facts.questions}


# What votes say


def test_votes_are_counted_for_each_two_with_an_interval_that_counts_questions():
    votes = [vote((1,), "a"), vote((1,), "b", blind=True), vote((0,), "c"), vote((0, 1), "d"), vote((), "e")]
    [found] = tally([*votes, votes[0]], ORDER)
    assert (found.first, found.second) == ("fp32", "int4")
    assert (found.votes, found.blind, found.for_first, found.for_second, found.equal, found.bad) == (5, 1, 1, 2, 1, 1)
    assert found.preferred.value == pytest.approx(2 / 3)
    assert found.preferred.low < 0.2 and found.preferred.high > 0.9
    [alike] = tally([vote((1,), "a", id=str(number)) for number in range(20)], ORDER)
    assert alike.preferred.value == 1 and alike.preferred.low is None  # one question, however often it is voted on


def test_of_three_answers_the_best_one_tells_nothing_of_the_others():
    votes = [vote((2,), answers=(OTHER, WIDE, NARROW))]
    pairs = {(one.first_model, one.first, one.second_model, one.second): one for one in tally(votes, ORDER)}
    assert list(pairs) == [("n", "int4", "m", "int4"), ("m", "fp32", "m", "int4")]
    assert all((one.for_first, one.for_second) == (0, 1) for one in pairs.values())


@pytest.mark.parametrize(
    "best, answers", [((2,), (WIDE, NARROW)), ((0,), (WIDE, WIDE)), ((0,), (WIDE,)), ((1, 0), (WIDE, NARROW))]
)
def test_a_vote_that_cannot_be_is_none(best, answers):
    with pytest.raises(ValueError):
        vote(best, answers=answers)


def test_votes_and_stars_are_kept_beside_each_other_and_the_format_before_goes_on(tmp_path):
    stars = {"model": "m", "question": "a", "baseline": "fp32", "variant": "int4", "scores": {}}
    old = {"format": 1, "sheets": [{"rater": "Li", "sheet": "s", "ratings": [stars]}]}
    (tmp_path / given.RATINGS).write_text(json.dumps(old), "utf-8")
    assert given.votes_of(tmp_path) == []
    given.keep_votes(tmp_path, [vote((0,), id="1"), vote((1,), id="2")])
    given.keep_votes(tmp_path, [vote((), id="1")])
    given.keep(tmp_path, "Wang", "s", [])
    assert [rating["rater"] for rating in given.ratings_of(tmp_path)] == ["Li"]
    assert [(each.id, each.best) for each in given.votes_of(tmp_path)] == [("2", (1,)), ("1", ())]
    for wrong in ({"best": [7]}, {"answers": [["m", "fp32"]]}, {"blind": 1}, {"question": None}):
        content = json.loads((tmp_path / given.RATINGS).read_text("utf-8"))
        content["votes"][0] |= wrong
        damaged = tmp_path / str(list(wrong))
        damaged.mkdir()
        (damaged / given.RATINGS).write_text(json.dumps(content), "utf-8")
        with pytest.raises(RunError, match="is damaged"):
            given.votes_of(damaged)


# Runs


def test_votes_with_one_setting_are_one_run_that_compare_reads(tmp_path):
    collected = Collected(tmp_path)
    for number, question in enumerate(("Hi?", "How?", "Who?")):
        name, votes = collected.vote(both(question), (number % 2,), blind=True)
    assert votes[0].votes == 3
    again = Collected(tmp_path)  # a server that was started anew
    assert again.vote(both("Where?"), (0, 1), False)[0] == name
    assert again.vote(both("Hi?", max_new_tokens=9), (0,), False)[0] != name
    folder = tmp_path / name
    keeps_its_schemas(folder)
    assert list(asked(folder).values()) == ["Hi?", "How?", "Who?", "Where?"]
    text = as_text(comparing.compare([folder]))
    assert "smollm2-135m FP32" in text and "3 / 4" in text
    assert "0.0 MB" not in text and "Hullo" in text


def test_times_to_the_first_token_count_where_all_of_the_prompt_was_read(tmp_path):
    wide, narrow = both()
    known = dataclasses.replace(narrow, answer=dataclasses.replace(narrow.answer, cached_tokens=2))
    names = Collected(tmp_path).write([[wide, narrow]]) + Collected(tmp_path).write([[wide, known]])
    compared = [comparing.compare([tmp_path / name]) for name in names]
    assert [[figures.ttft for figures in each.models[0].figures] for each in compared] == [[0.1, 0.1], [0.1, None]]
    assert ["TTFT" in as_text(each) for each in compared] == [True, False]


def test_a_vote_can_be_changed_but_is_not_blind_then(tmp_path):
    collected = Collected(tmp_path)
    wide, narrow = both()
    name, _votes = collected.vote([wide, narrow], (0,), blind=True)
    _name, [found] = collected.vote([narrow, wide], (0,), blind=True)
    assert (found.votes, found.for_first, found.for_second, found.blind) == (1, 0, 1, 0)
    assert collected.voted([wide, narrow]).best == (1,)
    assert len(RunRecord.read(tmp_path / name).answers) == 2


def test_a_run_of_votes_that_is_full_is_followed_by_another_one_and_one_that_was_removed_by_a_new_one(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("itrex_chat.server.collected.MOST_VOTES", 2)
    collected = Collected(tmp_path)
    names = [collected.vote(both(question), (0,), False)[0] for question in ("Hi?", "How?", "Who?")]
    assert names == [names[0], names[0], f"{names[0]}-2"]
    shutil.rmtree(tmp_path / names[0])
    assert collected.vote(both("Hi?"), (1,), False)[0] == names[0]
    assert [each.best for each in given.votes_of(tmp_path / names[0])] == [(1,)]


def test_another_answer_to_the_same_question_is_a_question_of_its_own(tmp_path):
    collected = Collected(tmp_path)
    name, _votes = collected.vote(both(do_sample=True), (0,), False)
    second = [made("fp32", "Hey.", name="x", do_sample=True), made("int4", "Hoy.", do_sample=True)]
    assert collected.vote(second, (0,), False)[0] == name
    assert list(asked(tmp_path / name).values()) == ["Hi?", "Hi?"]
    comparison = comparing.compare([tmp_path / name])
    assert "a seed of its own" in (tmp_path / name / "comparison.md").read_text("utf-8")
    assert {pair.baseline.text for pair in comparison.models[0].pairs["int4"]} == {"Hello.", "Hey."}


def test_a_question_of_a_set_keeps_its_id_and_what_it_expects(tmp_path):
    known = next(question for question in question_sets.load("english-5").questions if question.expected)
    [name] = Collected(tmp_path).write([both(known.text), both("Hi?")])
    [facts] = RunRecord.read(tmp_path / name).content.models.values()
    assert facts.questions[0] == known and facts.questions[1].expected == ""
    assert comparing.compare([tmp_path / name]).models[0].figures[0].expected == 1


def test_a_conversation_is_one_run_and_several_where_it_was_asked_otherwise(tmp_path):
    collected = Collected(tmp_path)
    first, second = both("Hi?"), both("How?")
    collected.vote(second, (0,), blind=True)
    third = both("And now?", max_new_tokens=9)
    replaced = both("Hi?", files="2")
    names = collected.write([first, second, third, replaced])
    assert len(names) == 3 and all(name.startswith("page-") for name in names)
    assert [list(asked(tmp_path / name).values()) for name in names] == [["Hi?", "How?"], ["And now?"], ["Hi?"]]
    [kept] = given.votes_of(tmp_path / names[0])
    assert asked(tmp_path / names[0])[kept.question] == "How?" and kept.blind
    for name in names:
        keeps_its_schemas(tmp_path / name)
        assert RunRecord.read(tmp_path / name).content.complete
        comparing.compare([tmp_path / name])


def test_a_run_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def fails(*_given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gathered.RunRecord, "append", fails)
    with pytest.raises(RunError, match="no space left"):
        gathered.write(tmp_path, "page", [both()])
    assert list(tmp_path.iterdir()) == []


def test_only_so_many_runs_are_kept(tmp_path):
    collected = Collected(tmp_path, most=2)
    name, _votes = collected.vote(both(), (0,), False)
    collected.write([both()])
    for refused in (
        lambda: collected.write([both()]),
        lambda: collected.vote(both("Hm?", max_new_tokens=9), (0,), False),
    ):
        with pytest.raises(ApiError) as told:
            refused()
        assert (told.value.status, told.value.code) == (507, "store_full")
    assert collected.vote(both("Another?"), (0,), False)[0] == name  # that run is there
    with pytest.raises(ApiError):
        Collected(tmp_path, largest=1).write([both()])


# Links


def test_a_link_outlives_the_server_and_the_oldest_is_given_up(tmp_path):
    shares = Shares(tmp_path, most=2)
    names = [shares.add([(both(question), None)]) for question in ("One?", "Two?", "Three?")]
    assert len(set(names)) == 3 and all(len(name) >= 22 for name in names)
    again = Shares(tmp_path)
    assert [again.find(name)["rounds"][0]["question"] for name in names[1:]] == ["Two?", "Three?"]
    for name in (names[0], "", ".", "../ratings", *(file.stem for file in (tmp_path / ".shared").iterdir())):
        with pytest.raises(ApiError) as told:
            again.find(name)
        assert told.value.status == 404
    assert {file.stat().st_mode & 0o077 for file in (tmp_path / ".shared").iterdir()} == {0}


# The server


def kept_answers() -> KeptAnswers:
    kept = KeptAnswers()
    for name, each in (
        ("one", made()),
        ("two", made("int4")),
        ("same", made(name="same")),
        ("else", made("int4", turns=("Who?",))),
    ):
        kept.add(name, each)
    return kept


@pytest.fixture
def parts(tmp_path) -> dict:
    return {"kept": kept_answers(), "collected": Collected(tmp_path), "shares": Shares(tmp_path)}


def ask(address: str, path: str, content: object = None, **headers: str) -> tuple[int, dict]:
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    given = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET" if content is None else "POST", path, content and json.dumps(content), given)
    reply = connection.getresponse()
    found = reply.status, json.loads(reply.read())
    connection.close()
    return found


WRITES = {
    "/page/votes": {"answers": ["one", "two"], "best": 0},
    "/page/runs": {"rounds": [["one", "two"]]},
    "/page/shares": {"rounds": [["one", "two"]]},
}


def test_what_is_kept_is_the_servers_own_and_comes_back_by_its_link(parts, tmp_path):
    with without_models(Access(), **parts) as address:
        status, told = ask(address, "/page/votes", {"answers": ["two", "one"], "best": 0, "blind": True})
        assert status == 200 and told["votes"][0]["for_second"] == 1
        assert ask(address, "/page/runs", WRITES["/page/runs"])[1]["runs"][0].startswith("page-")
        name = ask(address, "/page/shares", WRITES["/page/shares"])[1]["name"]
        [found] = ask(address, f"/page/shares/{name}")[1]["rounds"]
        assert [each["text"] for each in found["answers"]] == ["Hello.", "Hello."]
        assert found["vote"] == {"best": [1], "blind": True}
    assert len(list(tmp_path.glob("*/run.json"))) == 2


def test_strangers_and_pages_of_other_origins_can_neither_vote_nor_write_nor_read(parts, tmp_path):
    key = {"Authorization": f"Bearer {KEY}"}
    with without_models(Access([KEY]), **parts) as address:
        name = ask(address, "/page/shares", WRITES["/page/shares"], **key)[1]["name"]
        for path, content in (*WRITES.items(), (f"/page/shares/{name}", None)):
            assert ask(address, path, content)[0] == 401
            assert ask(address, path, content, Authorization="Bearer wrong-key")[0] == 401
            assert ask(address, path, content, Origin="http://evil.example", **key)[0] == 403
            assert ask(address, path, content, Origin="null", **key)[0] == 403
            assert ask(address, path, content, Host="evil.example", **key)[0] == 403
            if content:
                assert ask(address, path, content, Sec_Fetch_Site="cross-site", **key)[0] == 403
                for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
                    assert ask(address, path, content, Content_Type=kind, **key)[0] == 400
    assert list(tmp_path.glob("*/run.json")) == []


REFUSED = [
    ("/page/votes", {"answers": ["one", "../../etc/passwd"], "best": 0}, 404),
    ("/page/votes", {"answers": ["one", "\ud800"], "best": 0}, 400),
    ("/page/votes", {"answers": ["one", "else"], "best": 0}, 400),  # another question
    ("/page/votes", {"answers": ["one", "same"], "best": 0}, 400),  # the same variant
    ("/page/votes", {"answers": ["one", "one"], "best": 0}, 400),
    ("/page/votes", {"answers": ["one"], "best": 0}, 400),
    ("/page/votes", {"answers": ["one", "two"], "best": 2}, 400),
    ("/page/votes", {"answers": ["one", "two"], "best": -1}, 400),
    ("/page/votes", {"answers": ["one", "two"], "best": True}, 400),
    ("/page/votes", {"answers": ["one", "two"], "best": "both"}, 400),
    ("/page/votes", {"answers": ["one", "two"], "best": 0, "text": "forged"}, 400),
    ("/page/votes", {"answers": ["one", "x" * 101], "best": 0}, 400),
    ("/page/runs", {"rounds": []}, 400),
    ("/page/runs", {"rounds": [[]]}, 400),
    ("/page/runs", {"rounds": [["one", "gone"]]}, 404),
    ("/page/runs", {"rounds": [["one"]] * 201}, 400),
    ("/page/runs", {"rounds": [["one"]], "folder": "/tmp"}, 400),
    ("/page/shares", {"rounds": [[{"text": "forged"}]]}, 400),
    ("/page/shares", {"rounds": [["gone"]]}, 404),
    ("/page/shares/..%2f..%2fratings.json", None, 404),
    ("/page/shares/%00", None, 404),
    ("/page/shares/" + "a" * 5000, None, 404),
]  # fmt: skip


def test_what_the_server_did_not_answer_is_refused_and_nothing_is_written(parts, tmp_path):
    with without_models(Access(), **parts) as address:
        found = [(path, content, ask(address, path, content)) for path, content, _status in REFUSED]
    assert [(path, content, reply[0]) for path, content, reply in found] == REFUSED
    assert all(told["error"]["message"] for _path, _content, (_status, told) in found)
    assert list(tmp_path.iterdir()) == []


def test_answers_are_forgotten_where_there_are_too_many():
    kept = KeptAnswers(most=2)
    for name in ("one", "two", "three"):
        kept.add(name, made(name=name))
    with pytest.raises(ApiError) as told:
        kept.find(["one"])
    assert told.value.code == "answer_not_found" and kept.find(["three"])
    small = KeptAnswers(largest=20)
    small.add("one", made())
    small.add("two", made())
    with pytest.raises(ApiError):
        small.find(["one"])


def test_where_nothing_can_be_written_the_client_is_told_so_without_a_path(parts, tmp_path, capsys):
    (tmp_path / "file").write_text("", "utf-8")
    parts["collected"] = Collected(tmp_path / "file" / "runs")
    with without_models(Access(), **parts) as address:
        status, told = ask(address, "/page/votes", WRITES["/page/votes"])
    assert (status, told["error"]["code"]) == (503, "not_kept")
    assert str(tmp_path) not in str(told) and "file" in capsys.readouterr().err
