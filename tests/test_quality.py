"""Teacher-forced figures: true to the full distributions, to an independent implementation, and honest about chance."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from executors import Watched
from test_compare import answer as answered
from test_compare import record

from itrex_chat import measure as measuring_verb
from itrex_chat.artifacts import obtain
from itrex_chat.foundation.errors import RunError
from itrex_chat.jobs.answer import Answer
from itrex_chat.jobs.job import Score
from itrex_chat.jobs.passage import Passage
from itrex_chat.quality import distributions, intervals, measuring, metrics, scoring
from itrex_chat.quality import record as quality_record
from itrex_chat.quality.intervals import Estimate, Sample
from itrex_chat.quality.measuring import Corpus
from itrex_chat.quality.passages import ANSWERS, of_answers, of_text
from itrex_chat.quality.store import Parts
from itrex_chat.runs import asking
from itrex_chat.settings import questions
from itrex_chat.settings import recipe as recipes


@pytest.fixture
def recipe(models):
    """A tiny model whose INT4 variant computes with activations in FP32, as transformers will below."""
    return recipes.load(str(models("qwen2")), ["quantization.compute_dtype", "fp32"])


def spread(vocabulary: int, positions: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities with the heavy tail of a large vocabulary, and a noisy copy."""
    generator = torch.Generator().manual_seed(1)
    ranks = torch.arange(1, vocabulary + 1).log()
    logits = torch.stack(
        [-1.2 * ranks[torch.randperm(vocabulary, generator=generator)] for _position in range(positions)]
    )
    noisy = logits + noise * torch.randn(logits.shape, generator=generator)
    return logits.log_softmax(-1), noisy.log_softmax(-1)


def full(p: torch.Tensor, q: torch.Tensor) -> np.ndarray:
    """KL(p‖q) over the whole vocabulary, by numpy in float64."""
    p, q = p.double().numpy(), q.double().numpy()
    return (np.exp(p) * (p - q)).sum(-1)


@pytest.mark.parametrize("noise", [0.05, 0.3, 1.0])
def test_the_compact_reference_changes_the_mean_divergence_by_less_than_one_percent(noise):
    p, q = spread(50_000, 200, noise)
    targets = torch.zeros(200, dtype=torch.int64)
    kept = distributions.compact(p, targets, torch.Generator().manual_seed(0))
    found = distributions.score(kept, q, targets)
    expected = full(p, q).mean()
    assert kept.rest_log.exp().mean() > 0.05  # the tail is worth the trouble
    assert found.kl.mean() == pytest.approx(expected, rel=0.01)
    stated = found.sampling_variance.double().sum().sqrt() / 200
    assert abs(float(found.kl.double().mean()) - expected) < 4 * stated < 0.04 * expected
    assert (found.kl >= 0).all()


def test_a_small_vocabulary_is_kept_whole_and_compared_exactly():
    p, q = spread(200, 50, 0.5)
    targets = torch.arange(50)
    found = distributions.score(distributions.compact(p, targets, torch.Generator()), q, targets)
    assert np.allclose(found.kl, full(p, q), atol=1e-6) and not found.sampling_variance.any()
    assert torch.equal(found.target_log, q[range(50), range(50)])
    assert torch.equal(found.same_top, (p.argmax(-1) == q.argmax(-1)).float())


def test_the_same_distribution_diverges_by_nothing():
    p, _q = spread(2_000, 20, 1.0)
    targets = torch.zeros(20, dtype=torch.int64)
    found = distributions.score(distributions.compact(p, targets, torch.Generator()), p, targets)
    assert not found.kl.any() and (found.same_top == 1).all()


def hugging_face(folder, weights: dict) -> "torch.nn.Module":
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    return model.eval()


def test_perplexity_and_divergence_are_those_of_transformers_and_numpy(recipe, models, text):
    measured = measuring.measure(recipe, "fp32", ["int4"], [], [text])
    artifact = obtain(recipe).artifact
    rounded = {f"{name}.weight": artifact.matrix(name).dequantize() for name in artifact.manifest["matrices"]}
    rounded["model.embed_tokens.weight"] = artifact.tensor("model.embed_tokens.weight").float()
    first, second = hugging_face(models("qwen2"), {}), hugging_face(models("qwen2"), rounded)
    divergences, base_logs, logs = [], [], []
    with torch.inference_mode():
        for passage in measured.passages:
            ids = torch.tensor([passage.ids])
            p, q = (model(ids).logits[0, :-1].double().log_softmax(-1) for model in (first, second))
            divergences.append(full(p, q))
            base_logs.append(p.gather(1, ids[0, 1:, None])[:, 0].numpy())
            logs.append(q.gather(1, ids[0, 1:, None])[:, 0].numpy())
    [corpus] = measured.variants[0].corpora
    figures = {name: estimate.value for name, estimate in corpus.figures.items()}
    base_logs, logs = np.concatenate(base_logs), np.concatenate(logs)
    assert figures["kld_mean"] == pytest.approx(np.concatenate(divergences).mean(), abs=1e-4)
    assert figures["ppl_base"] == pytest.approx(math.exp(-base_logs.mean()), rel=1e-4)
    assert figures["ppl"] == pytest.approx(math.exp(-logs.mean()), rel=1e-4)
    assert figures["dp_rms"] == pytest.approx(math.sqrt(((np.exp(logs) - np.exp(base_logs)) ** 2).mean()), abs=1e-5)
    assert figures["kld_mean"] > 0.001


def test_fp32_against_itself_costs_nothing_and_bf16_less_than_int4(recipe, text):
    measured = {
        found.variant: found.corpora[0].figures
        for found in measuring.measure(recipe, "fp32", ["fp32", "bf16", "int4"], [], [text]).variants
    }
    assert measured["fp32"]["kld_mean"].value == measured["fp32"]["kld_mean"].high == 0
    assert measured["fp32"]["same_top"].value == measured["fp32"]["same_top"].low == 1
    assert 0 < measured["bf16"]["kld_mean"].value < measured["int4"]["kld_mean"].value
    assert measured["bf16"]["same_top"].value > measured["int4"]["same_top"].value


def test_the_baseline_is_computed_once_and_a_damaged_part_again(recipe, text, capfd):
    executor = Watched()
    first = measuring.measure(recipe, "fp32", ["int4"], [], [text], executor=executor)
    assert executor.done() == [("plan_scoring", None), ("score", "fp32"), ("score", "int4")]
    other = dataclasses.replace(recipe, quantization=dataclasses.replace(recipe.quantization, weight_dtype="int4_clip"))
    measuring.measure(other, "fp32", ["int4"], [], [text], executor=executor)
    assert executor.done() == [("plan_scoring", None), ("score", "int4")]
    damaged = first.reference.folder / f"{first.passages[0].key}.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-9] + b"\0" * 9)
    again = measuring.measure(recipe, "fp32", ["int4"], [], [text], executor=executor)
    assert executor.done() == [("plan_scoring", None), ("score", "fp32")] and "damaged" in capfd.readouterr().err
    assert again.variants[0].corpora == first.variants[0].corpora


def test_a_baseline_that_is_damaged_between_planning_and_scoring_is_computed_again(recipe, text, capfd):
    whole = measuring.measure(recipe, "fp32", ["int4"], [], [text])
    shutil.rmtree(Parts("scores", whole.plan.variants["int4"]).folder)
    damaged = whole.reference.folder / f"{whole.passages[1].key}.safetensors"

    class Unlucky(Watched):
        def run(self, job):
            if isinstance(job, Score) and not any(isinstance(other, Score) for other in self.jobs):
                damaged.write_bytes(damaged.read_bytes()[:-9] + b"\0" * 9)
            return super().run(job)

    executor = Unlucky()
    again = measuring.measure(recipe, "fp32", ["int4"], [], [text], executor=executor)
    assert executor.done() == [("plan_scoring", None), ("score", "int4"), ("score", "fp32"), ("score", "int4")]
    assert again.variants[0].corpora == whole.variants[0].corpora and "damaged" in capfd.readouterr().err


def test_parts_of_an_interrupted_measurement_are_used(recipe, text):
    whole = measuring.measure(recipe, "fp32", ["int4"], [], [text])
    scores = Parts("scores", whole.plan.variants["int4"])
    assert len(whole.passages) > 2
    (scores.folder / f"{whole.passages[1].key}.safetensors").unlink()
    executor = Watched()
    again = measuring.measure(recipe, "fp32", ["int4"], [], [text], executor=executor)
    assert again.variants[0].corpora == whole.variants[0].corpora
    assert [len(job.passages) for job in executor.jobs if isinstance(job, Score)] == [1]


def test_predictions_do_not_depend_on_how_a_passage_is_cut(recipe):
    from itrex_chat.neuralchat.chatbot import load_chatbot

    decoder = load_chatbot(recipe, "fp32").decoder
    ids = tuple(int(token) for token in torch.randint(0, 500, (300,), generator=torch.Generator().manual_seed(0)))
    cache = decoder.new_cache(300)
    cache.begin([300])
    whole = decoder.forward(torch.tensor([ids]), cache, all_logits=True)[0].log_softmax(-1)
    for first in (1, 2, 150, 299):
        parts = [part for _start, part, _targets in scoring.predictions(decoder, Passage("c", "n", ids, first))]
        assert torch.allclose(torch.cat(parts), whole[first - 1 : -1], atol=1e-4)


def test_answers_are_scored_behind_their_prompt_and_texts_in_windows():
    [passage] = of_answers(
        [
            Answer("a", "m", "fp32", "x", [3, 4, 5], [1, 2], "stop", 2, 3, 0.1, 0.1, 9.0, 9.0, 1.0),
            Answer("empty", "m", "fp32", "", [], [1], "stop", 1, 0, 0.1, None, None, None, 1.0),
        ]
    )
    assert (passage.ids, passage.first, passage.positions) == ((1, 2, 3, 4, 5), 2, 3)
    assert [part.positions for part in of_text("t", list(range(1026)))] == [511, 511, 1]
    assert of_text("t", [1]) == []


def test_a_run_is_measured_on_its_answers_token_by_token(models, tmp_path, text, capsys):
    recipe = recipes.load(str(models("qwen2")), ["generation.max_new_tokens", "12"])
    asked = questions.QuestionSet("two", "zh", (questions.Question("a", "你好"), questions.Question("b", "What?")))
    run = asking.ask([recipe], ["fp32", "int4"], asked, tmp_path / "run")
    assert measuring_verb.main([str(run.folder), "--text", str(text), "--tokens", "100"]) == 0
    assert "KL divergence, mean" in capsys.readouterr().out
    quality = quality_record.read(run.folder)["qwen2-tiny"]
    assert [corpus.name for corpus in quality.variants["int4"].corpora] == [ANSWERS, "text.txt"]
    assert quality.variants["int4"].corpora[1].positions == 99
    for answer in run.answers:
        if answer.variant == "fp32" and answer.token_ids:
            tokens, scores = quality.answers[answer.id], quality.variants["int4"].answers[answer.id]
            assert "".join(tokens.pieces) == answer.text
            assert len(tokens.p) == len(scores.p) == len(scores.kl) == len(answer.token_ids)
            assert all(0 <= p <= 1 for p in (*tokens.p, *scores.p))


def test_a_run_of_one_variant_is_not_measured_against_nothing(tmp_path, capsys):
    run = record(tmp_path / "run", [answered("int4", "a", "x", [1, 2])]).folder
    content = json.loads((run / "run.json").read_text("utf-8"))
    content["spec"]["models"] = [{"label": "m", "recipe": {}}]
    (run / "run.json").write_text(json.dumps(content), "utf-8")
    assert measuring_verb.main([str(run)]) == 1
    assert "answers of INT4 alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content, reason", [(b"\xff\xfe", "UTF-8"), (b"", "fewer than two tokens"), (None, "cannot be read")]
)
def test_a_text_that_cannot_be_measured_is_named(recipe, tmp_path, content, reason):
    file = tmp_path / "bad.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RunError, match=reason) as error:
        measuring.measure(recipe, "fp32", ["int4"], [], [file])
    assert "bad.txt" in str(error.value)


def test_texts_have_names_of_their_own_and_each_is_measured_once(recipe, tmp_path, monkeypatch):
    for name in ("answers", "a.txt", "b/a.txt", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"What is {name}? " * 9, "utf-8")
    monkeypatch.chdir(tmp_path)
    texts = [Path(name) for name in ("answers", "a.txt", "b/a.txt", "c.txt", "./c.txt", str(tmp_path / "c.txt"))]
    answers = [Passage(ANSWERS, "q", (1, 2, 3, 4), 2)]
    measured = measuring.measure(recipe, "fp32", [], answers, texts)
    corpora = list(dict.fromkeys(passage.corpus for passage in measured.passages))
    assert corpora == [ANSWERS, *(str(tmp_path / name) for name in ("answers", "a.txt", "b/a.txt")), "c.txt"]
    assert len(measured.passages) == 5


@pytest.mark.parametrize("limit", [-1, 0, 1])
def test_too_few_tokens_of_a_text_are_no_fault_of_the_text(recipe, text, limit):
    with pytest.raises(RunError, match="at least 2 tokens"):
        measuring.measure(recipe, "fp32", ["int4"], [], [text], limit)


QUALITY = quality_record.ModelQuality(
    "fp32",
    1000,
    {
        "int4": quality_record.VariantQuality(
            [Corpus("answers", 1, 2, {"ppl": Estimate(2.5, 2.0)}, 0.01)],
            {"q": quality_record.AnswerScores([0.5, 0.25], [0.0, 0.1])},
        )
    },
    {"q": quality_record.AnswerTokens(["a", "b"], [0.5, 0.5])},
)


def _places(value, path=()):
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from _places(value[key], (*path, key))


def test_a_record_of_a_measurement_is_read_as_it_was_written_and_one_edited_anywhere_says_how_to_mend_it(tmp_path):
    quality_record.write(tmp_path, {"m": QUALITY})
    assert quality_record.read(tmp_path) == {"m": QUALITY}
    written = json.loads((tmp_path / "quality.json").read_text("utf-8"))
    for *above, last in list(_places(written["models"]["m"]))[1:]:
        edited = json.loads(json.dumps(written))
        part = edited["models"]["m"]
        for key in above:
            part = part[key]
        part[last] = {"no": ["such", "thing"]}
        (tmp_path / "quality.json").write_text(json.dumps(edited), "utf-8")
        with pytest.raises(RunError, match="measure again"):
            quality_record.read(tmp_path)


# Statistics.


def test_students_t_is_that_of_the_tables():
    for degrees, expected in ((1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042), (1000, 1.962)):
        assert intervals.student(degrees) == pytest.approx(expected, abs=2e-3)


def test_figures_of_known_positions_are_known():
    found = metrics.Positions(
        np.repeat([0, 1], 5),
        np.arange(10) / 10,
        np.zeros(10),
        np.log(np.full(10, 0.5)),
        np.log(np.full(10, 0.25)),
        np.array([1.0, 0.0] * 5),
    )
    figures = {name: estimate.value for name, estimate in metrics.estimates(found).items()}
    assert figures["ppl_base"] == pytest.approx(2) and figures["ppl"] == pytest.approx(4)
    assert figures["ppl_ratio"] == pytest.approx(2) and figures["kld_mean"] == pytest.approx(0.45)
    assert figures["kld_median"] == pytest.approx(0.4) and figures["kld_90"] == pytest.approx(0.8)
    assert figures["kld_max"] == pytest.approx(0.9) and figures["same_top"] == 0.5
    assert figures["dp_mean"] == pytest.approx(-0.25) and figures["dp_rms"] == pytest.approx(0.25)


def dependent(generator, clusters: int, length: int, between: float, memory: float) -> np.ndarray:
    """Normal values [clusters, length] that share a part within a cluster and remember their neighbours; variance 1."""
    values = np.empty((clusters, length))
    values[:, 0] = generator.standard_normal(clusters)
    for place in range(1, length):
        values[:, place] = memory * values[:, place - 1] + math.sqrt(1 - memory**2) * generator.standard_normal(
            clusters
        )
    return math.sqrt(between) * generator.standard_normal((clusters, 1)) + math.sqrt(1 - between) * values


TRUE_MEAN = math.exp(0.5)  # of exp(z), z standard normal: skewed, as divergences are
FIGURES = {
    "mean": (lambda s: intervals.positive_mean(s.of(np.exp(s.values))), TRUE_MEAN),
    "rms": (lambda s: intervals.root_mean_square(s.of(np.exp(s.values / 2))), math.sqrt(TRUE_MEAN)),
    "signed mean": (intervals.mean, 0.0),
    "median": (lambda s: intervals.quantile(s, 0.5), 0.0),
    "90 %": (lambda s: intervals.quantile(s, 0.9), 1.2816),
    "share": (lambda s: intervals.share(s.of((s.values < 1.2816).astype(float))), 0.9),
}


@pytest.mark.parametrize("clusters", [6, 20, 60])
@pytest.mark.parametrize("figure", FIGURES)
def test_intervals_hold_the_truth_about_as_often_as_they_say(figure, clusters):
    """95 % is aimed at; with six dependent, skewed passages somewhat less is reached, never below 88 %."""
    estimate, truth = FIGURES[figure]
    generator = np.random.default_rng(7)
    passages, rounds, held = np.repeat(np.arange(clusters), 60), 400, 0
    for _round in range(rounds):
        found = estimate(Sample(dependent(generator, clusters, 60, 0.15, 0.6).ravel(), passages))
        held += (found.low is None or found.low <= truth) and (found.high is None or truth <= found.high)
    assert (0.88 if clusters < 20 else 0.91) <= held / rounds <= 0.995


def test_ignoring_the_passages_would_hold_the_truth_far_too_rarely():
    """That the simulation can tell: intervals for independent positions fail it."""
    generator = np.random.default_rng(7)
    held = 0
    for _round in range(200):
        values = np.exp(dependent(generator, 20, 60, 0.15, 0.6).ravel())
        found = intervals.positive_mean(Sample(values, np.arange(len(values))))
        held += found.low <= TRUE_MEAN <= found.high
    assert held / 200 < 0.75


def test_one_passage_alone_has_no_interval():
    found = intervals.mean(Sample(np.arange(5.0), np.zeros(5, dtype=int)))
    assert (found.value, found.low, found.high) == (2.0, None, None)


def test_an_open_end_of_a_quantile_stays_open():
    found = intervals.quantile(Sample(np.arange(100.0), np.repeat(np.arange(10), 10)), 0.99)
    assert found.value == 98 and found.high is None and found.low < 98


def test_agreement_everywhere_is_not_certainty():
    found = intervals.share(Sample(np.ones(640), np.repeat(np.arange(10), 64)))
    assert found.value == found.high == 1 and 0.5 < found.low < 0.9
