"""A Ray cluster of several nodes on this host: its answers are those of one process, and nothing is lost with a node."""

import dataclasses
import http.server
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from executors import InProcess
from moments import PATIENCE, random_moments, until
from run_schemas import keeps_its_schemas

from itrex_chat import ask as ask_verb
from itrex_chat import cluster
from itrex_chat.foundation.errors import MemoryShortage, RunError
from itrex_chat.jobs.event import Answered
from itrex_chat.jobs.job import Ask, Prepare
from itrex_chat.quality import measuring
from itrex_chat.runs.asking import ask
from itrex_chat.runs.record import ANSWERS, RunRecord
from itrex_chat.runs.spreading import parts
from itrex_chat.settings import questions
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.generation import GenerationConfig
from itrex_chat.settings.questions import Question, QuestionSet

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='ray is not installed (pip install "itrex_chat[ray]")'
)
MANY = "ITREX_CHAT_KILLS" in os.environ  # make machine-kills
COUNT = 10 if MANY else 4
SET = QuestionSet("some", "en", tuple(Question(f"q{number}", f"{number} + 1 = ?") for number in range(COUNT)))
FAMILIES = ("qwen2", "llama", "qwen")
MEMORY = 2 << 30


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """A head without cores and three nodes of one core, each with a cache of its own; gives the cluster and their caches."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # not behind all else that runs here
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("machines")
    small = {"object_store_memory": 80 << 20, "include_dashboard": False}
    made = Cluster()
    made.folder = folder

    def add(name: str):
        variables = {"ITREX_CHAT_CACHE": str(folder / name)}
        made.add_node(num_cpus=1, memory=MEMORY, env_vars=variables, wait=False, **small)

    def start(port: int = 0):
        made.global_state = type(made.global_state)()  # asking with that of another head ends the process
        made.add_node(num_cpus=0, gcs_server_port=port, **small)
        for name in ("one", "two", "three"):
            add(name)
        made.wait_for_nodes()

    made.add, made.start = add, start
    start()
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def recipe_list(models):
    return [recipes.load(str(models(family)), ["generation.max_new_tokens", "4"]) for family in FAMILIES]


def said(record: RunRecord) -> list[tuple]:
    return [(each.model, each.variant, each.id, each.token_ids, each.prompt_token_ids) for each in record.answers]


@needs_ray
def test_the_record_of_three_nodes_is_that_of_one_process_token_for_token(machines, recipe_list, tmp_path, capfd):
    here = ask(recipe_list, ["fp32", "int4"], SET, tmp_path / "here", executor=InProcess())
    with cluster.opened(f"ray:{machines.address}") as executor:
        assert executor.at_once == 3
        there = ask(recipe_list, ["fp32", "int4"], SET, tmp_path / "there", executor=executor)
    keeps_its_schemas(there.folder)
    found = RunRecord.read(there.folder)
    assert said(found) == said(there) == said(here) and len(found.answers) == 6 * COUNT
    assert found.content.complete and found.content.digest == here.content.digest
    assert list(found.content.models) == list(here.content.models)
    for label, facts in found.content.models.items():
        assert facts.questions == here.content.models[label].questions
        assert {name: run.state for name, run in facts.variants.items()} == {"fp32": "done", "int4": "done"}
    made = [json.loads(file.read_text("utf-8")) for file in machines.folder.glob("*/artifacts/*/manifest.json")]
    times = {(manifest["key"], manifest["created"]) for manifest in made}
    assert len({key for key, _created in times}) == len(times) == 3, "a model was quantized twice"


class Losing:
    """Does jobs on the cluster, and takes a node away when so many answers were told. `told` are the answers."""

    def __init__(self, executor, machines, after: int):
        self._executor, self._machines, self._after, self.told, self.lost = executor, machines, after, [], []

    @property
    def at_once(self) -> int:
        return self._executor.at_once

    def run(self, job):
        for event in self._executor.run(job):
            yield event
            if isinstance(event, Answered):
                self.told.append((event.answer.variant, event.answer.id))
                if not self.lost and len(self.told) == self._after:
                    [node, *_more] = [each for each in self._machines.worker_nodes if each.node_id in self._taken()]
                    self.lost.append(node.node_id)
                    self._machines.remove_node(node, allow_graceful=False)

    def _taken(self):
        return self._executor._nodes._taken


@needs_ray
@pytest.mark.parametrize("moment", random_moments(17, 1))
def test_a_node_that_is_lost_takes_no_answer_with_it_and_none_is_asked_twice(
    moment, machines, recipe_list, tmp_path, capfd
):
    some = dataclasses.replace(SET, questions=tuple(Question(f"n{number}", f"{number} + 1 = ?") for number in range(9)))
    longer = [dataclasses.replace(recipe_list[0], generation=GenerationConfig(max_new_tokens=100))]
    here = ask(longer, ["int4"], some, tmp_path / "here", executor=InProcess())
    with cluster.opened(f"ray:{machines.address}") as executor:
        losing = Losing(executor, machines, 1 + int(moment * len(some.questions)))
        there = ask(longer, ["int4"], some, tmp_path / "there", executor=losing)
    machines.add("four")
    assert said(RunRecord.read(there.folder)) == said(here) and there.content.complete
    assert losing.lost and sorted(losing.told) == sorted({*losing.told})


class Driven:
    """Commands that ask a model so many long questions on the cluster, into one folder."""

    def __init__(self, machines, model: str, folder: Path, count: int):
        self.asked, self.out, self._address, self.model = (
            folder / "asked.yaml",
            folder / "there",
            machines.address,
            model,
        )
        questions_of = "".join(f"  - {{id: k{number}, text: '{number}?'}}\n" for number in range(count))
        self.asked.write_text("questions:\n" + questions_of, "utf-8")

    def started(self) -> subprocess.Popen:
        options = ["--model", self.model, "--variants", "int4", "--prompts", str(self.asked), "--max-new-tokens", "200"]
        command = [sys.executable, "-m", "itrex_chat.ask", *options, "--out", str(self.out)]
        command += ["--executor", f"ray:{self._address}"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def lines(self) -> list[str]:
        """The answers that are kept whole."""
        found = (self.out / ANSWERS).read_text("utf-8").splitlines() if (self.out / ANSWERS).exists() else []
        return [line for line in found if line.endswith("}")]

    def goes_on(self, before: list[str], count: int, folder: Path) -> None:
        """The same command keeps what was answered, asks the rest, and the record is that of one process."""
        process = self.started()
        error = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 0, error
        recipe = recipes.load(self.model, ["generation.max_new_tokens", "200"])
        here = ask([recipe], ["int4"], questions.load(str(self.asked)), folder / "here", executor=InProcess())
        assert {*before} <= {*self.lines()} and len(self.lines()) == count
        assert said(RunRecord.read(self.out)) == said(here)


@needs_ray
@pytest.mark.parametrize("moment", random_moments(23, 1))
def test_a_driver_that_is_killed_goes_on_where_it_was_and_the_machines_are_free_again(
    moment, machines, recipe_list, tmp_path
):
    driven = Driven(machines, recipe_list[0].source.path, tmp_path, 6)
    first = driven.started()
    until(lambda: len(driven.lines()) >= 5 * moment, first)
    first.kill()
    first.communicate(timeout=PATIENCE)
    driven.goes_on(driven.lines(), 6, tmp_path)


@needs_ray
@pytest.mark.skipif(not MANY, reason="takes a minute; make machine-kills")
@pytest.mark.parametrize("moment", random_moments(29, 1))
def test_a_head_that_is_started_anew_is_a_sentence_and_the_same_command_goes_on(
    moment, machines, recipe_list, tmp_path
):
    count = 60  # of which most are left when the head goes
    driven = Driven(machines, recipe_list[0].source.path, tmp_path, count)
    port = machines.address.rpartition(":")[2]
    first = driven.started()
    until(lambda: len(driven.lines()) >= 10 * moment, first)
    for node in [machines.head_node, *machines.worker_nodes]:  # as ray stop does on all of them, but the head first
        machines.remove_node(node, allow_graceful=False)
    machines.start(int(port))
    error = first.communicate(timeout=PATIENCE)[1]
    assert first.returncode == 1 and "The head of the Ray cluster has been gone" in error and "Traceback" not in error
    driven.goes_on(driven.lines(), count, tmp_path)


@needs_ray
def test_a_head_that_does_not_answer_ends_all_jobs_with_one_sentence(machines, recipe_list, monkeypatch):
    from itrex_chat.cluster import nodes

    monkeypatch.setattr(nodes, "HEADLESS", -1.0)
    with (
        pytest.raises(RunError, match="head of the Ray cluster .* the same command goes on"),
        cluster.opened(f"ray:{machines.address}") as executor,
    ):
        next(executor.run(Prepare(recipe=recipe_list[0], variants=("int4",), tokens=8)))


@needs_ray
def test_what_is_measured_on_the_cluster_is_what_is_measured_here(machines, recipe_list, text, tmp_path, monkeypatch):
    with cluster.opened(f"ray:{machines.address}") as executor:
        there = measuring.measure(recipe_list[0], "fp32", ["int4"], [], [text], 300, executor)
        assert executor.quantize(recipe_list[0], "int4").is_dir()
    monkeypatch.setenv("ITREX_CHAT_CACHE", str(tmp_path / "other"))
    here = measuring.measure(recipe_list[0], "fp32", ["int4"], [], [text], 300, InProcess())
    assert there.variants[0].corpora == here.variants[0].corpora and there.variants[0].corpora[0].positions == 299


@needs_ray
def test_a_model_that_no_machine_has_the_memory_for_is_skipped_with_the_numbers(machines, recipe_list):
    job = Ask(recipe=recipe_list[0], label="m", variant="int4", questions=SET.questions, needs={"int4": 5 * MEMORY})
    with (
        cluster.opened(f"ray:{machines.address}") as executor,
        pytest.raises(MemoryShortage, match="m INT4 needs 10.74 GB of memory, but no machine .* more than 2.15 GB"),
    ):
        next(executor.run(job))


@needs_ray
def test_a_machine_with_another_version_is_refused(machines, recipe_list, monkeypatch):
    from itrex_chat.cluster import executor as executors

    with cluster.opened(f"ray:{machines.address}") as executor:
        monkeypatch.setattr(executors, "versions", lambda: {"itrex_chat": "9.9"})
        job = Prepare(recipe=recipe_list[0], variants=("int4",), tokens=8)
        with pytest.raises(RunError, match="has another version of this program .*; here itrex_chat 9.9"):
            next(executor.run(job))


@needs_ray
@pytest.mark.parametrize(
    "text, sentence",
    [
        ("ray:127.0.0.1:1", "The Ray cluster 127.0.0.1:1 cannot be reached: .*refused"),
        ("ray:nowhere", "cannot be reached|is no address"),
        ("ray:ray://host", "is no address of a cluster; write HOST:PORT"),
        ("dask", "cannot be read; write ray, or ray:HOST:PORT"),
    ],
)
def test_an_address_that_does_not_answer_is_a_sentence_and_soon(text, sentence):
    began = time.monotonic()
    with pytest.raises(RunError, match=sentence), cluster.opened(text):
        pass
    assert time.monotonic() - began < 20


@needs_ray
def test_something_else_that_listens_there_is_a_sentence_and_soon():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with (
            pytest.raises(RunError, match="is not the head of a cluster"),
            cluster.opened(f"ray:127.0.0.1:{server.server_port}"),
        ):
            pass
    finally:
        server.shutdown()
        server.server_close()


def test_without_ray_there_is_a_sentence_that_says_how_to_get_it(monkeypatch, capsys, recipe_list):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert ask_verb.main(["--model", recipe_list[0].source.path, "--executor", "ray"]) == 1
    assert 'pip install "itrex_chat[ray]"' in capsys.readouterr().err


def test_nothing_but_verbs_comes_into_the_room_and_nothing_else_imports_ray():
    package = Path(cluster.__file__).resolve().parents[1]
    for file in package.rglob("*.py"):
        if file.parent.name == "cluster":
            continue
        source = file.read_text("utf-8")
        assert not re.search(r"^\s*(import|from) ray\b", source, re.MULTILINE), file
        assert file.parent == package or not re.search(r"itrex_chat\.cluster|itrex_chat import cluster", source), file


@pytest.mark.parametrize(
    "questions, models, machines, count",
    [(10, 3, 3, 1), (10, 1, 3, 3), (2, 1, 3, 2), (1000, 200, 1000, 5), (1000, 20, 16, 3), (10, 20, 16, 1)],
)
def test_questions_are_asked_in_as_many_parts_as_keep_all_machines_busy(questions, models, machines, count):
    assert parts(questions, models, machines) == count
