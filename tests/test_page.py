"""The page at `/` in Chromium, with a real server: what it shows of two variants, and that nothing in it comes from elsewhere."""

import json
import math
import random
import re
import zipfile
from http.client import HTTPConnection, HTTPResponse

import pytest
from moments import until
from open_page import CSS, Page, without_models
from served import serving

from itrex_chat.server import page
from itrex_chat.server.access import Access

FP32, INT4 = "smollm2-135m:fp32", "smollm2-135m:int4"
POLITE = "Rewrite this sentence so that it sounds polite: Give me the report now."
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
KEY = "a-key-of-the-tests"


@pytest.fixture(scope="module")
def server(package_cache):
    with serving(package_cache, "--variants", "int4,fp32") as served:
        yield served


@pytest.fixture
def opened(server, browser):
    return Page(browser, f"http://127.0.0.1:{server.port}")


def tokens_of(server, model: str, count: int) -> list[dict]:
    """An answer's entries, as a client gets them."""
    asked = {"messages": [{"role": "user", "content": POLITE}], "model": model, "max_tokens": count}
    reply = server.chat(**asked | {"text": POLITE, "logprobs": True, "top_logprobs": 20})
    return reply["choices"][0]["logprobs"]["content"]


@pytest.mark.parametrize("width, dark", [(360, True), (1400, False)])
def test_both_variants_answer_side_by_side_and_their_first_difference_is_marked_and_opens(server, browser, width, dark):
    shown = Page(browser, f"http://127.0.0.1:{server.port}", width, dark)
    shown.ask(POLITE)
    wide, narrow = tokens_of(server, FP32, 16), tokens_of(server, INT4, 16)
    assert shown.texts(".answer .tag") == [FP32, INT4]
    assert shown.texts(".said") == ["".join(each["token"] for each in answer) for answer in (wide, narrow)]
    for figures in shown.texts(".figures"):
        assert re.search(r"\d+ tokens.*\d tokens/s.*first token after \d", figures)

    parted = next(at for at, pair in enumerate(zip(wide, narrow)) if pair[0]["token"] != pair[1]["token"])
    assert [found.get_dom_attribute("data-at") for found in shown.all(".first-difference")] == [str(parted)] * 2
    assert f"from token {parted + 1} on" in shown.texts(".foot")[1]

    shown.press(".first-difference")
    sides = shown.texts(".side")
    other = next(top for top in narrow[parted]["top_logprobs"] if top["token"] == wide[parted]["token"])
    for side, value in zip(sides, (wide[parted]["logprob"], other["logprob"])):
        assert f"gave it {100 * math.exp(value):.1f}\u202f%" in side
    assert [len(side.find_elements(CSS, "tr")) for side in shown.all(".side")] == [8, 8]
    assert re.search(rf"KL from the first column ≥\s\d.*over {parted + 1} tokens", shown.texts(".foot")[1])
    shown.press(".answer:last-child .token", parted + 1)
    assert "another one up to here" in shown.texts(".side")[0] and "gave it" in shown.texts(".side")[1]
    assert browser.value("document.documentElement.scrollWidth") == width
    shown.is_clean()


def test_the_arrow_keys_go_through_the_tokens_of_an_answer(opened, browser):
    from selenium.webdriver.common.keys import Keys

    opened.ask(POLITE, 6)
    said = opened.all(".said")[1]
    said.send_keys(Keys.HOME)
    assert opened.texts(".panel h3")[0].startswith("Token 1 of 6")
    browser.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert opened.texts(".chosen") == [opened.texts(".answer:last-child .token")[1]]
    assert opened.texts("#status")[0].startswith("Token 2 of 6")
    said.send_keys(Keys.ESCAPE)
    assert opened.all(".panel:not([hidden])") == []


def test_an_answer_that_is_stopped_stays_as_far_as_it_came_and_ends_on_the_server(opened, server):
    before = len(server.lines)
    opened.fill("#tokens", "1500")
    opened.fill("#question", "Tell me a very long story about a fox.")
    opened.press("#send")
    until(lambda: min(map(len, opened.texts(".said")), default=0) > 10)
    opened.press("#stop")
    opened.wait()
    assert {found.get_dom_attribute("data-state") for found in opened.all(".answer")} == {"stopped"}
    assert opened.texts(".foot")[0].startswith("Stopped.") and len(opened.texts(".said")[0]) > 10
    until(lambda: [line.get("gone") for line in server.lines[before:]].count(True) == 2)
    opened.is_clean()


def test_each_column_goes_on_with_what_it_said_itself(opened, browser):
    browser.driver.execute_script(
        "const before = fetch; window.asked = []; "
        "window.fetch = (path, options) => { if (options?.body) asked.push(JSON.parse(options.body)); "
        "return before(path, options); }"
    )
    opened.fill("#system", "Be brief.")
    opened.ask(POLITE, 4)
    said = opened.texts(".said")
    opened.fill("#temperature", "0.5")
    opened.fill("#seed", "7")
    opened.ask("Why?", 3)
    first, second = browser.value("asked.slice(2)")
    for asked, text in zip((first, second), said):
        assert [turn["content"] for turn in asked["messages"]] == ["Be brief.", POLITE, text, "Why?"]
    assert (first["temperature"], first["seed"], first["max_completion_tokens"]) == (0.5, 7, 3)

    opened.press(".round:last-child .actions button", 1)
    assert opened.all("#question")[0].get_property("value") == "Why?"
    opened.ask("How?", 2)
    assert opened.texts(".round h2") == [POLITE, "How?"]
    assert [turn["content"] for turn in browser.value("asked.at(-1)")["messages"]][1:] == [POLITE, said[1], "How?"]
    opened.press(".round:last-child .actions button")
    opened.wait()
    assert browser.value("asked.length") == 8 and len(opened.all(".answer")) == 4
    opened.press("#reset")
    assert opened.all(".round") == []
    opened.is_clean()


def test_columns_are_added_changed_and_removed(opened, browser):
    opened.press(".column:last-child button", 1)
    assert len(opened.all(".column")) == 3
    opened.press(".column button")
    models = browser.value("[...document.querySelectorAll('.column select')].map((each) => each.value)")
    assert len(models) == 2 and models[0] == INT4
    opened.press("#in-turn")
    opened.press("#examples button")
    opened.press("#stop")
    opened.wait()
    assert opened.texts(".answer .tag") == models
    opened.is_clean()


def test_what_people_and_models_say_stays_text(opened, browser):
    opened.fill("#system", HOSTILE)
    opened.ask(HOSTILE, 2)
    assert opened.texts(".round h2") == [HOSTILE]
    entry = {"logprob": -0.5, "top_logprobs": []}
    said = browser.driver.execute_async_script(
        "const [entries, done] = arguments; import('/page/answer.js').then(({ Answer }) => { "
        "const answer = new Answer('<b>x</b>:int4'); answer.take('', entries); answer.end('failed', '<b>why</b>'); "
        "document.querySelector('main').append(answer.node); done(answer.said.textContent); })",
        [
            entry | {"token": part.decode("utf-8", "replace"), "bytes": list(part)}
            for part in (HOSTILE.encode(), b"\xe4\xbd", b"\xa0")
        ],
    )
    assert said == f"{HOSTILE}你"  # a character of two tokens, too
    assert browser.value("document.title") == "itrex_chat" and opened.all("main img, main script, main b") == []
    opened.is_clean()


def test_the_divergence_that_is_told_is_a_lower_bound_and_exact_where_all_tokens_are_named(opened, browser):
    source, wrong = random.Random(7), []
    for named in (3, 8, 40):
        p = [source.expovariate(1) ** 3 for _token in range(40)]
        q = [value * math.exp(source.gauss(0, 0.5)) for value in p]
        p, q = ([value / sum(side) for value in side] for side in (p, q))
        exact = sum(one * math.log(one / other) for one, other in zip(p, q))
        sides = [
            {"key": str(best[0]), "logprob": math.log(side[best[0]]), "top": [
                {"key": str(token), "logprob": math.log(side[token])} for token in best[:named]
            ]}
            for side in (p, q)
            for best in [sorted(range(40), key=lambda token, side=side: -side[token])]
        ]  # fmt: skip
        bound = browser.driver.execute_async_script(
            "const [p, q, done] = arguments; "
            "import('/page/divergence.js').then(({ divergence }) => done(divergence(p, q)));",
            *sides,
        )
        if not (0 < bound <= exact + 1e-9 and (named < 40 or bound == pytest.approx(exact))):
            wrong.append((named, bound, exact))
    assert wrong == []


def test_the_conversation_is_saved_as_markdown_whose_fences_nothing_closes(opened, browser):
    browser.driver.execute_script(
        "URL.createObjectURL = (blob) => { blob.text().then((text) => (window.saved = text)); return '#'; }"
    )
    opened.ask("```\n# No title", 3)
    opened.press("#export")
    until(lambda: browser.value("window.saved"))
    saved = browser.value("window.saved")
    assert "## 1. Question\n\n````text\n```\n# No title\n````" in saved
    for model, said in zip((FP32, INT4), opened.texts(".said")):
        assert re.search(rf"### [AB] `{model}`\n\n(```+)text\n{re.escape(said)}\n\1\n", saved)


def test_what_the_server_refuses_is_said_in_its_words(opened):
    opened.ask("Hello", 10)
    opened.fill("#temperature", "9")
    opened.ask("Hello", 10)
    assert [text for text in opened.texts(".foot") if "No answer: temperature cannot be used" in text]


def test_every_text_is_there_in_both_languages_and_every_control_has_a_name(opened, browser):
    def names() -> list[str]:
        return browser.value(
            "[...document.querySelectorAll('button, select, textarea, input')].map((each) => "
            "(each.getAttribute('aria-label') || each.textContent || each.closest('label')?.textContent || '').trim())"
        )

    assert browser.value("document.documentElement.lang") == "en" and all(names())
    opened.press("#language")
    assert browser.value("document.documentElement.lang") == "zh-CN" and all(names())
    assert opened.texts("#send") == ["发送"] and "每一列都会回答" in opened.texts("#welcome p")[0]
    opened.press("#language")
    assert opened.texts("#send") == ["Send"]


# The files


def files() -> dict[str, str]:
    return {file.name: file.read_text("utf-8") for file in page.FOLDER.iterdir()}


def table() -> dict[str, dict[str, str]]:
    return json.loads(files()["texts.js"].removeprefix("export const TEXTS = ").strip().removesuffix(";"))


def test_both_languages_have_the_same_texts_with_the_same_fields_and_none_is_left_over():
    english, chinese = table()["en"], table()["zh"]
    assert list(english) == list(chinese)
    for key, text in english.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", chinese[key])), key
    source = "".join(text for name, text in files().items() if name != "texts.js")
    assert [key for key in english if f'"{key}"' not in source] == []
    named = re.findall(r'data-(?:text|label|title|placeholder)="(\w+)"|\bt\("(\w+)"', source)
    assert {one or other for one, other in named} <= set(english)


def test_no_file_asks_for_anything_elsewhere_or_turns_text_into_markup():
    for name, text in files().items():
        assert re.findall(r"https?://[^\"]+", text) in ([], ["http://www.w3.org/2000/svg"]), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text), (
            name
        )
    index = files()["index.html"]
    assert not re.search(r"<script(?! type=\"module\" src=)|<style|\son\w+=|\sstyle=", index)


def test_the_wheel_carries_the_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name.removeprefix("itrex_chat/server/page/"): archive.read(name) for name in archive.namelist()}
    assert {name: text.encode() for name, text in files().items()}.items() <= packed.items()


def test_where_a_key_is_needed_the_page_asks_for_it_and_keeps_it_in_its_tab(browser):
    with without_models(Access([KEY])) as address:
        shown = Page(browser, address)
        assert shown.all("dialog[open]") and shown.all("#key-wrong[hidden]")
        shown.fill("#key-value", "wrong-key")
        shown.press("#key button")
        until(lambda: shown.all("dialog[open] #key-wrong:not([hidden])"))
        shown.fill("#key-value", KEY)
        shown.press("#key button")
        until(lambda: shown.all("#notice:not([hidden])"))
        assert shown.texts("#notice") == ["The server offers no model."]
        assert browser.value("sessionStorage.length") == 1 and KEY not in browser.value("JSON.stringify(localStorage)")


def test_only_the_files_of_the_page_are_told_without_a_key_and_they_allow_nothing_else():
    def get(address: str, path: str, **headers: str) -> HTTPResponse:
        connection = HTTPConnection(address.removeprefix("http://"))
        connection.request("GET", path, headers=headers)
        return connection.getresponse()

    with without_models(Access([KEY])) as address:
        for path in page.PATHS:
            reply = get(address, path)
            policy = reply.getheader("content-security-policy")
            assert reply.status == 200 and "'unsafe" not in policy
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        for path in ("/page/questions", "/page/", "/page/index.html", "/page/../page.py", "//"):
            assert get(address, path).status == 401
        found = json.load(get(address, "/page/questions", Authorization=f"Bearer {KEY}"))
        assert {"english-5", "semantics-5"} <= {each["name"] for each in found}
