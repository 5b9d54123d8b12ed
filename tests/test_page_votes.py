"""Votes, runs and links on the page, in Chromium with a real server; and what axe finds wrong with the page."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from moments import until
from open_page import Page
from served import serving

from itrex_chat.comparison import compare_runs
from itrex_chat.ratings import given
from itrex_chat.runs.record import RunRecord

FP32, INT4 = "smollm2-135m:fp32", "smollm2-135m:int4"
POLITE = "Rewrite this sentence so that it sounds polite: Give me the report now."
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
AXE = "ITREX_CHAT_TEST_AXE"  # the path of axe.min.js, where npm does not know it
LAST = ".round:last-child"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def server(package_cache, runs):
    with serving(package_cache, "--variants", "int4,fp32", "--runs", str(runs)) as served:
        yield served


@pytest.fixture
def opened(server, browser):
    return Page(browser, f"http://127.0.0.1:{server.port}")


def vote(opened: Page, place: int) -> None:
    opened.press(f"{LAST} .choices button", place)
    until(lambda: opened.all(f'{LAST} .choices [aria-pressed="true"]') or opened.all(f"{LAST} .ballot .wrong"))


def run_of(opened: Page, runs: Path) -> Path:
    """The run that the last vote is said to be in."""
    return runs / re.search(r"votes-\w+", opened.texts(f"{LAST} .ballot .foot")[0])[0]


@pytest.mark.parametrize("width", [360, 1400])
def test_in_a_blind_vote_nothing_tells_who_said_what_until_it_is_given(server, browser, runs, width):
    opened = Page(browser, f"http://127.0.0.1:{server.port}", width)
    opened.press("#blind")
    opened.fill("#tokens", str(12 + width % 7))  # a run of its own
    opened.fill("#question", POLITE)
    opened.press("#send")
    until(lambda: opened.all(".answer"))
    assert browser.value("getComputedStyle(document.querySelector('.veiled .said') ?? document.body).visibility") in (
        "hidden" if opened.all(".veiled") else "visible"
    )
    opened.wait()
    seen = browser.value(
        "document.querySelector('#rounds').innerText + document.querySelector('#status').textContent + "
        "[...document.querySelectorAll('#rounds *')].map((each) => each.ariaLabel + each.title).join()"
    )
    assert not re.search(r"int4|fp32|tokens?/s|first token|KL", seen, re.IGNORECASE) and "Vote to see" in seen
    assert opened.texts(".letter") == ["A", "B"]
    assert len(opened.all("#export:disabled, #keep:disabled, #share:disabled")) == 3
    opened.press(".answer .token")
    assert opened.all(".panel:not([hidden])") == []

    vote(opened, 1)
    names = opened.texts(".tag")
    assert sorted(names) == sorted([FP32, INT4]) and opened.all(".tag[hidden]") == []
    assert f"A was {names[0]}. B was {names[1]}." in opened.texts("#status")[0]
    assert all("tokens/s" in figures for figures in opened.texts(".figures"))
    opened.press(f"{LAST} .choices button")  # it cannot be changed now
    assert [each.get_dom_attribute("aria-pressed") for each in opened.all(".choices button")] == [
        "false",
        "true",
        "false",
        "false",
    ]
    [kept] = given.votes_of(run_of(opened, runs))
    assert kept.blind and kept.answers[kept.best[0]][1] == names[1].rpartition(":")[2]
    assert browser.value("document.documentElement.scrollWidth") == width
    opened.is_clean()


def test_a_vote_by_keyboard_is_changed_and_compare_shows_it(opened, browser, runs):
    from selenium.webdriver.common.keys import Keys

    opened.ask(POLITE, 9)
    button = opened.all(f"{LAST} .choices button")[0]
    button.send_keys(Keys.ENTER)
    until(lambda: "All votes there" in opened.texts("#status")[0])
    assert browser.value("document.activeElement.textContent") == "A is better"
    browser.driver.switch_to.active_element.send_keys(Keys.TAB, Keys.SPACE)
    until(lambda: "int4 better 1" in opened.texts("#status")[0])
    run = run_of(opened, runs)
    [found] = compare_runs([run]).votes
    assert (found.first, found.second, found.votes, found.for_second) == ("fp32", "int4", 1, 1)
    assert [answer.text for answer in RunRecord.read(run).answers] == opened.texts(".said")
    opened.is_clean()


def test_a_conversation_is_kept_as_a_run_with_its_answers_settings_and_files(opened, runs):
    opened.fill("#system", "Be brief.")
    opened.ask(POLITE, 7)
    opened.ask("Why?", 7)
    vote(opened, 2)
    opened.press("#keep")
    until(lambda: opened.all("#told:not([hidden])"))
    name = re.search(r"page-[\d-]+", opened.texts("#told-text")[0])[0]
    record = RunRecord.read(runs / name)
    [facts] = record.content.models.values()
    assert [question.text for question in facts.questions] == [POLITE, "Why?"] and facts.system == "Be brief."
    assert facts.generation.max_new_tokens == 7 and record.content.complete
    assert all(facts.variants[variant].load.files.digest for variant in ("fp32", "int4"))
    answers = {(answer.variant, answer.id): answer for answer in record.answers}
    shown = dict(zip([(v, q.id) for q in facts.questions for v in ("fp32", "int4")], opened.texts(".said")))
    assert {key: answer.text for key, answer in answers.items()} == shown
    assert all(answer.batch == 2 for answer in record.answers)  # both answered at a time: no speeds of either alone
    [kept] = given.votes_of(runs / name)
    assert kept.question == facts.questions[1].id and kept.best == (0, 1)
    assert [each.text for each in (answers["fp32", kept.question],)] == [opened.texts(".said")[2]]
    opened.is_clean()


def test_a_link_shows_the_comparison_read_only_and_as_text(opened, browser):
    opened.ask(f"{HOSTILE} {POLITE}", 10)
    vote(opened, 0)
    said, names = opened.texts(".said"), opened.texts(".tag")
    opened.press("#share")
    until(lambda: opened.all("#told-link:not([hidden])"))
    link = opened.all("#link")[0].get_property("value")
    assert re.fullmatch(rf"{opened.address}/#shared=[\w-]{{22,}}", link)
    browser.driver.get("about:blank")
    browser.driver.get(link)
    until(lambda: opened.all(".round"))
    assert (opened.texts(".said"), opened.texts(".tag")) == (said, names)
    assert opened.texts(".round h2") == [f"{HOSTILE} {POLITE}"] and browser.value("document.title") == "itrex_chat"
    assert len(opened.all(".first-difference")) == 2
    assert [each.get_dom_attribute("aria-disabled") for each in opened.all(".choices button")] == ["true"] * 4
    assert not any(each.is_displayed() for each in opened.all("#composer, #columns, #keep, #share, .actions button"))
    opened.is_clean()
    browser.driver.get("about:blank")
    browser.driver.get(f"{opened.address}/#shared=nothing")
    until(lambda: opened.all(".notice:not([hidden])"))
    assert opened.texts("#notice") == ["Nothing is shared under this link, or not any more."]


def test_the_same_variant_twice_is_no_vote(opened):
    select = opened.all(".column select")[0]
    opened.browser.driver.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))", select, INT4
    )
    opened.ask("Hello", 3)
    assert opened.texts(".tag") == [INT4, INT4] and opened.all(".ballot:not([hidden])") == []
    opened.press("#keep")
    until(lambda: opened.all("#notice:not([hidden])"))
    assert "Two of these answers are of one model" in opened.texts("#notice")[0]


def axe_source() -> str:
    """axe-core, which is too large to be kept here (654 KB, MPL-2.0)."""
    if named := os.environ.get(AXE):
        return Path(named).read_text("utf-8")
    if npm := shutil.which("npm"):
        for place in (["root"], ["root", "--global"]):
            found = subprocess.run([npm, *place], capture_output=True, text=True).stdout.strip()
            file = Path(found) / "axe-core" / "axe.min.js"
            if found and file.is_file():
                return file.read_text("utf-8")
    pytest.skip(f"axe-core is not installed (npm install --global axe-core, or its axe.min.js in {AXE})")


@pytest.mark.parametrize(
    "width, dark, language", [(1400, False, "en"), (360, True, "zh"), (360, False, "en"), (1400, True, "zh")]
)
def test_axe_finds_nothing_serious(server, browser, width, dark, language):
    source = axe_source()

    def faults() -> list[str]:
        browser.driver.execute_script(source)
        found = browser.driver.execute_async_script("axe.run().then((found) => arguments[0](found))")
        assert len(found["passes"]) > 20
        return [
            f"{each['impact']} {each['id']}: {json.dumps([node['html'] for node in each['nodes']])}"
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
        ]

    opened = Page(browser, f"http://127.0.0.1:{server.port}", width, dark)
    if language == "zh":
        opened.press("#language")
    try:
        browser.driver.execute_script("document.querySelector('#settings').open = true")
        found = {"at first": faults()}
        opened.press("#blind")
        opened.ask(POLITE, 8)
        found["blind"] = faults()
        vote(opened, 0)
        opened.press(".first-difference")
        found["voted"] = faults()
        opened.press("#share")
        until(lambda: opened.all("#told-link:not([hidden])"))
        found["with a link"] = faults()
        link = opened.all("#link")[0].get_property("value")
        browser.driver.get("about:blank")
        browser.driver.get(link)
        until(lambda: opened.all(".round"))
        found["shared"] = faults()
    finally:
        browser.driver.execute_script("localStorage.clear()")
    assert {place: each for place, each in found.items() if each} == {}


def test_what_a_runs_settings_would_not_tell_is_not_kept(server, runs):
    before = len(list(runs.iterdir()))
    for more in ({"n": 2}, {"stop": "."}, {"presence_penalty": 0.5}, {"response_format": {"type": "json_object"}}):
        name = server.chat(**more)["id"]
        status, _headers, told = server.ask("/page/runs", {"rounds": [[name]]})
        assert (status, told["error"]["code"]) == (404, "answer_not_found"), more
    called = {"id": "1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "1", "content": "noon"},
    ]
    status, _headers, told = server.ask("/v1/chat/completions", {"model": INT4, "messages": turns, "max_tokens": 4})
    if status == 200:  # a model without a form for results refuses them
        assert server.ask("/page/runs", {"rounds": [[told["id"]]]})[0] == 404
    name = server.chat(stop=None, presence_penalty=0, temperature=0.7)["id"]
    assert server.ask("/page/runs", {"rounds": [[name]]})[0] == 200 and len(list(runs.iterdir())) == before + 1
