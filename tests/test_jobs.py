"""Jobs: what is put on a line comes back as it was, from whatever executor, and each artifact is read once a run."""

import json
import subprocess
import sys

import pytest
from executors import InProcess, Watched

from itrex_chat.artifacts import Artifact, obtain
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import MemoryShortage, RunError
from itrex_chat.jobs import protocol
from itrex_chat.jobs.answer import Answer
from itrex_chat.jobs.event import (
    Answered,
    ArtifactFacts,
    Done,
    Facts,
    Failed,
    LayerScored,
    Loaded,
    Planned,
    Prepared,
    Scored,
    Text,
)
from itrex_chat.jobs.executor import LocalExecutor
from itrex_chat.jobs.job import Ask, PlanScoring, Prepare, Score, ScoreLayers
from itrex_chat.jobs.passage import Passage
from itrex_chat.runs.asking import ask
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.engine_options import EngineOptions
from itrex_chat.settings.generation import GenerationConfig
from itrex_chat.settings.questions import Question, QuestionSet

RECIPE = recipes.load("qwen-7b-chat", ["quantization.keep_layers", "[0, 3]"])
PASSAGES = (Passage("answers", "a", (1, 2, 3), 2), Passage("t", "t 1", (4, 5), 1))
QUESTIONS = (Question("a", "你好\n\u2028", "", "x"), Question("b", "What?"))
ANSWER = Answer("a", "m", "int4", "\ud7ff…", [1, 2], [3], "stop", 1, 2, 0.5, None, None, 2.0, 1.5)
ARTIFACTS = {"int4": ArtifactFacts("/f", 12, {"weights": 3, "linear": {"INT4 G32": 2}})}
FACTS = Facts(1.5, 2, 3, "native (avx2)", "", "int8", 4, 5, "float16", {"kind": "local"}, {"saved": None})
JOBS = [
    Prepare(recipe=RECIPE, variants=("fp32", "itrex-int4"), tokens=500, trusted={"/a": "b"}),
    Ask(
        recipe=RECIPE,
        options=EngineOptions(own_template=True),
        label="m",
        variant="int4",
        questions=QUESTIONS,
        system="s",
        generation=GenerationConfig(seed=5, repetition_penalty=1.2),
        needs={"int4": 1 << 40},
    ),
    PlanScoring(recipe=RECIPE, baseline="fp32", variants=("int4",), answers=((1, 2), ()), texts=("t",), tokens=9),
    Score(recipe=RECIPE, variant="int4", passages=PASSAGES, reference="r", scores="s", needed=7),
    ScoreLayers(recipe=RECIPE, baseline="fp32", variant="int4", passages=PASSAGES, reference="r", scores={0: "k"}),
]
EVENTS = [
    Prepared(job="j", needs={"int4": 1}, languages=("zh", "en"), problems={"fp32": "no"}, artifacts=ARTIFACTS),
    Planned(
        job="j",
        needs={},
        problems={},
        artifacts=ARTIFACTS,
        texts=((1, 2),),
        pieces=(("a", ""),),
        vocabulary=9,
        layers=2,
        kernel="native",
        reference="r",
        variants={"int4": "k"},
    ),
    Loaded(job="j", facts=FACTS, trusted={"/a": "b"}),
    Text(job="j", question="a", text="好\n"),
    Answered(job="j", answer=ANSWER),
    Scored(job="j", passage="k"),
    LayerScored(job="j", number=3),
    Done(job="j", peak_memory=1 << 35),
    Failed(job="j", message="m", shortage=True),
]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.task)
def test_a_job_comes_back_from_its_line_as_it_was(job):
    line = protocol.as_line(job)
    assert "\n" not in line and protocol.job_from(line) == job


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.event)
def test_an_event_comes_back_from_its_line_as_it_was(event):
    line = protocol.as_line(event)
    assert "\n" not in line and protocol.event_from(line) == event


def test_every_kind_of_job_and_event_is_among_these():
    assert {type(job) for job in JOBS} == set(protocol.Job.__args__)
    assert {type(event) for event in EVENTS} == set(protocol.Event.__args__)


@pytest.mark.parametrize(
    "change",
    [
        {"task": "sweep"},
        {"tokens": "many"},
        {"tokens": None},
        {"variants": "fp32"},
        {"variants": [4]},
        {"recipe": []},
        {"more": 1},
        {"trusted": {"a": 1}},
    ],
)
def test_a_line_that_is_no_job_is_refused(change):
    values = json.loads(protocol.as_line(JOBS[0])) | change
    with pytest.raises(ValueError):
        protocol.job_from(json.dumps(values))


@pytest.mark.parametrize("line", ["", "{", "[]", "null", '{"event": []}', '{"event": "done"}', "[" * 100_000])
def test_a_line_that_is_no_event_is_refused(line):
    with pytest.raises(ValueError):
        protocol.event_from(line)


def test_two_jobs_have_two_identifiers_and_events_carry_them(models):
    recipe = recipes.load(str(models("qwen2")), ["generation.max_new_tokens", "3"])
    first, second = (
        Ask(recipe=recipe, label="m", variant="int4", questions=QUESTIONS, generation=recipe.generation)
        for _job in range(2)
    )
    assert first.id != second.id
    events = list(LocalExecutor().run(first))
    assert {event.job for event in events} == {first.id}
    assert [event.answer.id for event in events if isinstance(event, Answered)] == ["a", "b"]
    texts = {id: "".join(e.text for e in events if isinstance(e, Text) and e.question == id) for id in "ab"}
    assert {event.answer.id: event.answer.text for event in events if isinstance(event, Answered)} == texts


def test_a_worker_checks_the_memory_of_the_machine_that_it_runs_on(models, monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: 1 << 50)  # here there is enough of it
    recipe = recipes.load(str(models("qwen2")))
    large = Ask(recipe=recipe, label="m", variant="int4", questions=QUESTIONS, needs={"int4": 1 << 49, "fp32": 1 << 20})
    with pytest.raises(MemoryShortage, match="m INT4 needs 562949.95 GB .* What would fit: FP32"):
        list(LocalExecutor().run(large))
    with pytest.raises(MemoryShortage, match="Scoring INT4 needs"):
        list(LocalExecutor().run(Score(recipe=recipe, variant="int4", passages=(), reference="r", needed=1 << 49)))


def test_the_digests_of_an_artifact_are_computed_once_a_run(models, tmp_path, monkeypatch):
    verify, verified = Artifact.verify, []
    monkeypatch.setattr(Artifact, "verify", lambda self: verified.append(self.folder) or verify(self))

    recipe = recipes.load(str(models("qwen2")), ["generation.max_new_tokens", "2"])
    asked = QuestionSet("two", "zh", QUESTIONS)
    record = ask([recipe], ["int4", "fp32"], asked, tmp_path / "run", executor=InProcess())
    assert record.content.complete and not verified  # it was written by this very run
    ask([recipe], ["int4"], asked, tmp_path / "another", executor=InProcess())
    assert len(verified) == 1  # another run does not trust this one


def test_an_artifact_that_changed_since_it_was_verified_is_verified_again(models, tmp_path, capfd):
    recipe = recipes.load(str(models("qwen2")), ["generation.max_new_tokens", "2"])
    executor = Watched()
    [*_events, prepared] = executor.run(Prepare(recipe=recipe, variants=("int4",), tokens=100))
    file = obtain(recipe).artifact.folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    job = Ask(recipe=recipe, label="m", variant="int4", questions=QUESTIONS[:1], generation=recipe.generation)
    loaded = next(event for event in executor.run(job) if isinstance(event, Loaded))
    assert "is damaged" in capfd.readouterr().err
    assert loaded.trusted != prepared.trusted and obtain(recipe).artifact.verify() is None


@pytest.mark.parametrize("variable", ["ITREX_CHAT_KERNEL", "ITREX_CHAT_INSTRUCTIONS"])
def test_a_kernel_that_cannot_be_had_is_told_before_anything_is_quantized(models, monkeypatch, home, variable):
    monkeypatch.setenv(variable, "avx9")
    with pytest.raises(RunError, match="cannot be 'avx9'"):
        list(InProcess().run(Prepare(recipe=recipes.load(str(models("qwen2"))), variants=("int4",), tokens=9)))
    assert not home.exists()


def test_nothing_that_lies_in_the_working_folder_is_imported_by_a_worker(models, tmp_path, monkeypatch):
    for name in ("torch", "tqdm", "itrex_chat", "json"):
        (tmp_path / f"{name}.py").write_text(
            f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit('ran')\n", "utf-8"
        )
    monkeypatch.chdir(tmp_path)
    recipe = recipes.load(str(models("qwen2")), ["generation.max_new_tokens", "2"])
    [*_events, prepared] = LocalExecutor().run(Prepare(recipe=recipe, variants=("fp32",), tokens=100))
    assert prepared.needs["fp32"] and not (tmp_path / "ran").exists()


def test_a_worker_that_says_nothing_of_a_job_ends_with_a_sentence(monkeypatch):
    from itrex_chat.jobs import executor

    monkeypatch.setattr(
        executor,
        "_started",
        lambda: subprocess.Popen(
            [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ),
    )
    with pytest.raises(RunError, match="it was killed, probably because the memory ran out"):
        list(LocalExecutor().run(JOBS[0]))
