"""A Ray cluster of several nodes on this host: its answers are those of one process, and nothing is lost with a node."""

import importlib.util
import os

import pytest
from executors import InProcess
from run_schemas import keeps_its_schemas

from itrex_chat import cluster
from itrex_chat.runs.asking import ask
from itrex_chat.runs.record import RunRecord
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.questions import Question, QuestionSet

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='ray is not installed (pip install "itrex_chat[ray]")'
)
SET = QuestionSet("four", "en", tuple(Question(f"q{number}", f"{number} + 1 = ?") for number in range(4)))
FAMILIES = ("qwen2", "llama", "qwen")
MEMORY = 2 << 30


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """A head without cores and three nodes of one core, each with a cache of its own; gives the cluster and their caches."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("machines")
    small = {"object_store_memory": 80 << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    made.homes = {}

    def add(name: str):
        home = str(folder / name)
        made.homes[name] = made.add_node(
            num_cpus=1, memory=MEMORY, env_vars={"ITREX_CHAT_CACHE": home, "ITREX_CHAT_LANG": "en"}, wait=False, **small
        )

    made.add = add
    for name in ("one", "two", "three"):
        add(name)
    made.wait_for_nodes()
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
    assert said(found) == said(there) == said(here) and len(found.answers) == 24
    assert found.content.complete and found.content.digest == here.content.digest
