"""Many questions a pass: each answer is the one that it is alone, and its times are compared with no others."""

import json
import time
from functools import partial
from itertools import cycle

import pytest
from executors import InProcess
from moments import random_moments
from test_ask import answers, asked, finished, run  # noqa: F401  fixtures
from test_compare import answer, record
from test_model_drafts import Eager, Moody
from test_scheduler import PROMPTS, SAMPLED, decoder, tokenizer  # noqa: F401  fixtures

from itrex_chat.comparison import compare
from itrex_chat.decoder.model import Decoder
from itrex_chat.engines import open_session
from itrex_chat.engines.native.session import NativeSession
from itrex_chat.engines.session import Session
from itrex_chat.foundation.errors import GenerationError, TokenizerError
from itrex_chat.generation.loop import generate, generate_together
from itrex_chat.generation.model_drafts import DraftModel
from itrex_chat.generation.response import Response
from itrex_chat.jobs.job import MOST_TOGETHER
from itrex_chat.native import FEW_ROWS
from itrex_chat.report.markdown import as_markdown
from itrex_chat.report.tables import figure_rows
from itrex_chat.report.terminal import as_text
from itrex_chat.runs.asking import ask
from itrex_chat.settings import questions
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.generation import GenerationConfig

CONFIGS = {
    "greedy": GenerationConfig(max_new_tokens=24),
    "penalized": GenerationConfig(max_new_tokens=24, repetition_penalty=0.7),
    "sampled": GenerationConfig(max_new_tokens=24, seed=5, **SAMPLED),
    "lookup": GenerationConfig(max_new_tokens=24, repetition_penalty=0.7, prompt_lookup=True),
}
MANY = [*PROMPTS, *([token + 7 for token in prompt] for prompt in PROMPTS)]


def together(decoder, tokenizer, prompts, config, count, model=None) -> list[Response]:  # noqa: F811
    """The answers in the order of the prompts; their pieces are held against them."""
    responses, texts = {}, [""] * len(prompts)
    for number, piece in generate_together(decoder, tokenizer, prompts, config, count, model):
        if isinstance(piece, Response):
            responses[number] = piece
        else:
            assert number not in responses
            texts[number] += piece
    assert [responses[number].text for number in range(len(prompts))] == texts
    return [responses[number] for number in range(len(prompts))]


@pytest.fixture
def passes(monkeypatch):
    """The rows of each pass, and of how many sequences, as they come."""
    seen, read = [], Decoder.read

    def watched(self, chunks, cache):
        seen.append((sum(len(chunk.ids) for chunk in chunks), len(chunks)))
        return read(self, chunks, cache)

    monkeypatch.setattr(Decoder, "read", watched)
    return seen


def test_short_prompts_are_read_together(decoder, tokenizer, passes):  # noqa: F811
    if decoder.independent_tokens == 1:
        pytest.skip("a pass takes one independent token")
    prompts = [list(range(5, 5 + length)) for length in (3, 9, 4, 8, 20, 2)]
    together(decoder, tokenizer, prompts, GenerationConfig(max_new_tokens=1), 16)
    assert passes == [(20, 1), (16, 3), (10, 2)]


@pytest.mark.parametrize("count", [2, 3, 16])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_answers_made_together_are_those_made_alone(decoder, tokenizer, config, count, passes):  # noqa: F811
    alone = [list(generate(decoder, tokenizer, prompt, config))[-1] for prompt in MANY]
    passes.clear()
    found = together(decoder, tokenizer, MANY, config, count)
    assert [each.token_ids for each in found] == [each.token_ids for each in alone]
    assert [each.finish_reason for each in found] == [each.finish_reason for each in alone]
    rows = min(count, decoder.independent_tokens, len(MANY))
    assert {each.batch for each in found} == {rows}
    assert all(each.share > 0 for each in found)
    decoding = [(tokens, sequences) for tokens, sequences in passes if sequences > 1]
    assert not decoding or max(tokens for tokens, _sequences in decoding) <= decoder.independent_tokens
    assert max([sequences for _tokens, sequences in passes]) == rows


@pytest.mark.parametrize("payoff", [partial(Eager, 1.0), partial(Moody, 1)], ids=["eager", "moody"])
@pytest.mark.parametrize("config", [CONFIGS["greedy"], CONFIGS["sampled"]], ids=["greedy", "sampled"])
def test_drafted_answers_share_the_rows_of_a_pass(decoder, tokenizer, config, payoff, passes):  # noqa: F811
    if decoder.independent_tokens == 1:
        pytest.skip("the native kernels were not built")
    alone = [list(generate(decoder, tokenizer, prompt, config))[-1] for prompt in MANY]
    model = DraftModel("int4", decoder, decoder.config.vocab_size, payoff())
    passes.clear()
    found = together(decoder, tokenizer, MANY, config, 3, model)
    assert [each.token_ids for each in found] == [each.token_ids for each in alone]
    assert sum(each.accepted_tokens for each in found) > 0 and {each.drafter for each in found} == {"int4"}
    assert 3 < max(tokens for tokens, sequences in passes if sequences == 3) <= decoder.independent_tokens


def test_a_prompt_that_the_model_cannot_take_is_named_when_those_before_it_are_answered(decoder, tokenizer):  # noqa: F811
    long = [1] * decoder.config.context_length
    found = []
    with pytest.raises(GenerationError, match="shorten it"):
        for number, piece in generate_together(
            decoder, tokenizer, [PROMPTS[0], PROMPTS[1], long, PROMPTS[2]], CONFIGS["greedy"], 4
        ):
            if isinstance(piece, Response):
                found.append(number)
    assert sorted(found) == [0, 1]


def test_with_a_kernel_whose_rows_depend_on_each_other_answers_are_made_alone(models, tokenizer, monkeypatch):  # noqa: F811
    monkeypatch.setenv("ITREX_CHAT_KERNEL", "reference")
    with open_session(recipes.load(str(models("qwen2"))), "fp32") as session:
        found = together(session.decoder, tokenizer, PROMPTS, CONFIGS["greedy"], 4)
    assert {each.batch for each in found} == {1}


def test_an_engine_that_cannot_answers_one_after_the_other(models):
    with open_session(recipes.load(str(models("qwen2"))), "fp32") as session:
        config = GenerationConfig(max_new_tokens=6)
        numbers = [number for number, _piece in Session.together(session, PROMPTS, config, 4)]
        responses = [
            piece for _n, piece in Session.together(session, PROMPTS, config, 4) if isinstance(piece, Response)
        ]
    assert numbers == sorted(numbers) and [response.batch for response in responses] == [1] * len(PROMPTS)


# Asking.


def test_a_set_is_answered_together_with_the_tokens_of_one_at_a_time(models, asked, tmp_path):  # noqa: F811
    code, _out, error = finished(run(models("qwen2"), asked, tmp_path / "alone"))
    assert code == 0, error
    code, out, error = finished(run(models("qwen2"), asked, tmp_path / "batch", "--batch", "2"))
    assert code == 0, error
    alone, batch = ({(a["variant"], a["id"]): a for a in answers(tmp_path / name)} for name in ("alone", "batch"))
    assert {key: a["token_ids"] for key, a in batch.items()} == {key: a["token_ids"] for key, a in alone.items()}
    assert all(a["batch"] == 2 and a["seconds"] > 0 for a in batch.values())
    assert not any("batch" in a for a in alone.values())
    assert "one of up to 2 at a time" in out and "tok/s" not in out
    assert "--batch 2" in json.loads((tmp_path / "batch" / "run.json").read_text("utf-8"))["commands"][0]


def test_a_batch_that_is_killed_is_continued_to_the_same_answers(models, asked, tmp_path):  # noqa: F811
    """Also by a run without one, and another way round."""
    reference = tmp_path / "reference"
    began = time.monotonic()
    assert finished(run(models("qwen2"), asked, reference, "--batch", "3"))[0] == 0
    whole = time.monotonic() - began
    expected = {(line["variant"], line["id"]): line["token_ids"] for line in answers(reference)}
    ways = cycle([("3", "1"), ("1", "3"), ("3", "2")])
    for number, (batches, moment) in enumerate(zip(ways, random_moments(3, least=2))):
        out = tmp_path / f"run{number}"
        process = run(models("qwen2"), asked, out, "--batch", batches[0])
        time.sleep(moment * whole)
        process.kill()
        process.communicate()
        code, _out, error = finished(run(models("qwen2"), asked, out, "--batch", batches[1]))
        assert code == 0, error
        assert {(line["variant"], line["id"]): line["token_ids"] for line in answers(out)} == expected


@pytest.mark.parametrize("batch", [1, 3])
def test_a_question_that_cannot_be_asked_stops_no_earlier_one(batch, models, asked, tmp_path, monkeypatch):  # noqa: F811
    prompt, asked_before = NativeSession.prompt, []

    def second_refused(self, messages):
        asked_before.append(messages)
        if len(asked_before) == 2:
            raise TokenizerError("This text has no tokens.")
        return prompt(self, messages)

    monkeypatch.setattr(NativeSession, "prompt", second_refused)
    out = tmp_path / "run"
    recipe = recipes.load(str(models("qwen2")), ["generation.max_new_tokens", "4"])
    with pytest.raises(TokenizerError):
        ask([recipe], ["fp32"], questions.load(str(asked)), out, executor=InProcess(), batch=batch)
    assert [line["id"] for line in answers(out)] == [questions.load(str(asked)).questions[0].id]


def test_memory_is_planned_for_all_that_are_answered_at_a_time(models, asked, tmp_path):  # noqa: F811
    recipe = recipes.load(str(models("qwen2")), ["generation.max_new_tokens", "4"])
    needs = []
    for batch in (1, 3, 8):
        record = ask(
            [recipe], ["fp32"], questions.load(str(asked)), tmp_path / str(batch), executor=InProcess(), batch=batch
        )
        needs.append(record.content.models["qwen2-tiny"].needs["fp32"])
    assert needs[1] > needs[0]
    assert needs[2] == needs[1]  # there are no more questions
    assert MOST_TOGETHER == FEW_ROWS


# Reports.


@pytest.fixture
def mixed(tmp_path):
    """FP32 answered together but for one question, INT4 alone."""
    return compare(
        [
            record(
                tmp_path / "run",
                [
                    answer("fp32", "a", "今天天气很好", [5, 6, 7], 0.9, batch=4, seconds=2.0),
                    answer("fp32", "b", "same", [1, 2], 0.2),
                    answer("int4", "a", "今天天气不好", [5, 6, 9, 9], 0.05),
                    answer("int4", "b", "same", [1, 2], 0.05),
                ],
            )
        ]
    )


def test_times_of_a_batch_are_in_no_figure_and_told_apart(mixed):
    [model] = mixed.models
    fp32, int4 = model.figures
    assert fp32.tpot == 0.2 and fp32.ttft == 0.4 and fp32.seconds is None and int4.seconds == 2.0
    assert (fp32.batch.answers, fp32.batch.most, fp32.batch.tokens, fp32.batch.seconds) == (1, 4, 3, 2.0)
    assert model.ratio(int4, "tokens_per_second") == 4.0
    assert model.ratio(int4, "peak_memory") is None and model.ratio(int4, "seconds") is None
    sentence = "FP32: one answer was made together with others, up to 4 at a time: 3 tokens in 2.0 s."
    for text in (as_text(mixed), as_markdown(mixed).replace("\\", "")):
        assert sentence in text
        assert "first divergent token: 2; chrF" in text and "1.1 → 20.0" not in text  # no times of question a
        assert "5.0 → 20.0 tokens/s" in text  # those of question b


def test_a_variant_that_was_asked_only_together_has_no_rate(tmp_path):
    made = [answer("fp32", "a", "x", [5], batch=2), answer("int4", "a", "x", [5], batch=2)]
    [model] = compare([record(tmp_path / "run", made)]).models
    assert all(figures.tokens_per_second is None and figures.ttft is None for figures in model.figures)
    assert "tokens per second" not in [row[0] for row in figure_rows(model)]
    assert model.ratio(model.figures[1], "peak_memory") == 1.0
