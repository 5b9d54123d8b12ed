"""What hubs answer, good and bad, and what is made of it: sites, tokens, listings, codes."""

import hashlib
import itertools
import os

import pytest
from downloading import HUBS, MODEL, TITLES, TOKENS, WEIGHTS, at, download, home, hub, on_both, refused, server
from standin_hub import FAILED, OVERLOADED, REPOSITORY, Refusal, StandinHub, StandinServer

from itrex_chat.settings.source_spec import SourceSpec
from itrex_chat.sources import hubs, web
from itrex_chat.sources.digests import DigestMemo


@on_both
def test_the_token_goes_to_the_hub_and_to_no_other_host(hub, home, name, monkeypatch):
    monkeypatch.setenv(TOKENS[name], hub.token)
    hub.private = True
    assert download(name, home) == MODEL
    assert any(hub.token in shown for shown in hub.shown) and hub.leaks == []


@on_both
def test_a_mirror_may_send_on_to_another_address_which_does_not_get_the_token(hub, home, name, monkeypatch):
    mirror = StandinServer()
    mirror.hub = StandinHub({}, moved_to=os.environ["HF_ENDPOINT"])
    at(f"{mirror.endpoint}/", monkeypatch)
    monkeypatch.setenv(TOKENS[name], "hf_secret")
    assert download(name, home) == MODEL
    assert mirror.hub.shown and not hub.shown and not hub.leaks
    mirror.close()


@on_both
def test_without_its_digests_a_file_is_taken_by_its_size_and_its_digest_remembered(hub, home, name):
    hub.without_digests = True
    assert download(name, home) == MODEL
    [folder] = home.glob(f"hubs/{name}--owner--model/*")
    weights = folder / WEIGHTS
    assert DigestMemo(home).known([weights]) == {weights: hashlib.sha256(MODEL[WEIGHTS]).hexdigest()}


def test_a_mirror_that_lists_no_sizes_is_asked_for_each_file(hub, home):
    hub.without_sizes = True
    assert download("huggingface", home) == MODEL
    hub.damaged.add(WEIGHTS)
    assert "arrived damaged" in refused("huggingface", home / "other")


def test_modelscope_is_understood_where_it_says_overload_with_404_and_failure_with_200(hub, home):
    hub.refusals = [OVERLOADED, FAILED]
    hub.file_refusals = [OVERLOADED, FAILED, OVERLOADED]
    assert download("modelscope", home) == MODEL


def test_modelscopes_listing_at_a_commit_may_fail(hub, home):
    """The branch is listed, which is all that is needed."""
    asked = itertools.count()
    answers = hub.refusals

    class SecondFails(list):
        def __bool__(self):
            return next(asked) == 1

        def pop(self, index=0):
            return Refusal(500)

    hub.refusals = SecondFails(answers)
    folder, origin = hubs.download(SourceSpec(modelscope=REPOSITORY), home)
    assert (folder / WEIGHTS).read_bytes() == MODEL[WEIGHTS] and origin["commit"] == "master"


@pytest.mark.parametrize("deleted", [True, False])
def test_modelscopes_listing_says_which_commit_a_branch_is_at(hub, home, deleted):
    hub.names_commit = True
    if deleted:
        hub.push({key: content for key, content in MODEL.items() if key != "tokenizer.model"})
    _folder, origin = hubs.download(SourceSpec(modelscope=REPOSITORY), home)
    assert origin["commit"] == hub.head.sha


def test_a_private_repository_of_modelscope_is_no_missing_one(hub, home):
    hub.private = True
    assert refused("modelscope", home).startswith("ModelScope does not give owner/model to everyone. ")


def test_a_wrong_token_is_told_as_such(hub, home, monkeypatch):
    hub.private = True
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    told = refused("huggingface", home)
    assert told.startswith("Hugging Face does not accept your access token. Set HF_TOKEN to a valid one")


@on_both
def test_who_has_a_token_that_may_not_read_a_model_is_not_told_to_set_one(hub, home, name, monkeypatch):
    monkeypatch.setenv(TOKENS[name], "hf_of_somebody_else")
    hub.gated = 403
    assert "not give owner/model to the owner of your access token. Accept its conditions" in refused(name, home)


@on_both
def test_a_commit_that_vanished_says_refresh(hub, home, name):
    hub.damaged.add(WEIGHTS)
    refused(name, home)
    hub.damaged.clear()
    hub.commits.clear()
    hub.push(MODEL | {"README.md": b"# A model"})
    assert refused(name, home).endswith("Take what is there now with --refresh.")


@on_both
def test_a_page_in_place_of_a_file_is_told(hub, home, name):
    hub.weather = lambda: setattr(hub, "page", b"<html>Please log in</html>")
    assert "cannot be understood (a page came in place of " in refused(name, home)


@on_both
@pytest.mark.parametrize(
    "headers",
    [{"Location": "http://[/"}, {"Location": "http://127.0.0.1:99999999/"}, {"Location": "file:///etc/passwd"}],
)
def test_a_hub_that_sends_us_to_no_address_is_told(hub, home, name, headers):
    hub.refusals = [Refusal(302, headers)] * 3
    assert refused(name, home).startswith(f"{TITLES[name]} gave an answer that cannot be understood (")


@on_both
@pytest.mark.parametrize(
    "turn", [{"files": 3}, {"files": [{"rfilename": 1, "Path": 1}]}, {"files": [None]}, [], None, "text", {"sha": []}]
)
def test_a_listing_of_anything_else_is_told(hub, home, name, turn):
    files = turn.get("files") if isinstance(turn, dict) else None
    hub.refusals = [
        Refusal(200, {}, turn | {"siblings": files, "Data": {"Files": files}} if isinstance(turn, dict) else turn)
    ]
    told = refused(name, home)
    assert "cannot be understood (" in told or "holds no model to work with" in told


@pytest.mark.parametrize(
    "variables, address",
    [
        ({}, "https://www.modelscope.cn"),
        ({"MODELSCOPE_PREFER_AI_SITE": "True"}, "https://www.modelscope.ai"),
        ({"MODELSCOPE_ENDPOINT": "modelscope.ai/"}, "https://modelscope.ai"),
        ({"MODELSCOPE_DOMAIN": "mirror.example"}, "https://mirror.example"),
    ],
)
def test_modelscopes_sites_and_mirrors_can_be_chosen(monkeypatch, variables, address):
    from itrex_chat.sources import hub_apis

    for variable in ("MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN", "MODELSCOPE_PREFER_AI_SITE"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert hub_apis.HUBS["modelscope"].address("a/b", "master", "c").startswith(f"{address}/api/v1/models/a/b/repo?")


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
        ({"Retry-After": "soon"}, 0),
        ({"Retry-After": "nan"}, 0),
        ({"Retry-After": "-3"}, 0),
        ({"RateLimit": '"api";r=0;t=36'}, 36),
        ({}, 0),
    ],
)
def test_what_a_hub_asks_to_be_waited_for_is_read(headers, seconds):
    assert web._wait(headers) == seconds
