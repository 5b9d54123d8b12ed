"""Weights that do not fit into memory are read from disk for each pass, and give what they give from memory."""

import dataclasses
import os
import random
import resource
import shutil
import time
from pathlib import Path

import pytest
import torch
from native_cases import bit_equal
from safetensors.torch import load_file, save_file
from test_ask import answers, finished, run
from test_mapping import CHANGES, converted, is_refused_after, opened
from test_model_drafts import Eager
from test_sixteen_bits import read

from itrex_chat import native
from itrex_chat.chat import load_tokenizer
from itrex_chat.decoder.linear import DenseLinear, parts_of
from itrex_chat.decoder.model import Chunk, Decoder
from itrex_chat.engines.native import streaming, weights
from itrex_chat.engines.native.streaming import Room, Streaming, plan
from itrex_chat.engines.native.weights import load_dense
from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.generation import model_drafts
from itrex_chat.generation.loop import generate, generate_together
from itrex_chat.generation.model_drafts import DraftModel
from itrex_chat.generation.payoff import PassCosts
from itrex_chat.generation.response import Response
from itrex_chat.jobs.event import DrafterFacts, Facts, Pace
from itrex_chat.jobs.forecast import forecast
from itrex_chat.settings.generation import GenerationConfig


@pytest.fixture(autouse=True)
def _native():
    if reason := native.missing():
        pytest.skip(reason)


@pytest.fixture
def asked(tmp_path) -> Path:
    file = tmp_path / "asked.yaml"
    file.write_text("name: two\nquestions:\n  - {id: a, text: hello}\n  - {id: b, text: good morning}\n", "utf-8")
    return file


def streamed(folder: Path, monkeypatch, precision: str = "fp32", stay: int = 1) -> Decoder:
    """A decoder of which only the `stay`-th part of the matrices may be in memory; the others share little."""
    monkeypatch.setattr(weights, "PIECE", 4096)

    def planned(matrices):
        largest, total = max(size for _name, size in matrices), sum(size for _name, size in matrices)
        ring = largest + (16 << 10)
        monkeypatch.setattr(streaming, "RING", ring)
        monkeypatch.setattr(streaming, "LEFT_ALONE", 0)
        monkeypatch.setattr(streaming, "PART_LEFT", 1 << 60)
        return plan(matrices, ring, ring + ((total - largest) // stay if stay > 1 else 0))

    return load_dense(opened(folder), precision, plan=planned)


@pytest.mark.parametrize("stay", [1, 2])
@pytest.mark.parametrize("family", ["chatglm3", "qwen", "baichuan2", "qwen2", "llama"])
def test_weights_that_are_streamed_give_the_logits_of_weights_in_memory(family, stay, models, monkeypatch):
    resident = load_dense(opened(models(family)), "fp32")
    decoder = streamed(models(family), monkeypatch, stay=stay)
    assert decoder.stream and decoder.stream.nbytes
    for _again in range(3):
        assert all(map(bit_equal, read(decoder), read(resident)))
    assert decoder.weight_bytes() == resident.weight_bytes()


def test_an_answer_whose_weights_come_from_disk_is_drafted_from_its_second_token_on(models, monkeypatch):
    resident = load_dense(opened(models("qwen2")), "fp32")
    decoder, tokenizer = streamed(models("qwen2"), monkeypatch), load_tokenizer(models("qwen2"), "qwen2")
    config = GenerationConfig(max_new_tokens=model_drafts.PLAIN)
    twins = [
        dataclasses.replace(DraftModel.beside("twin", resident, each), payoff=Eager(1.0))
        for each in (decoder, resident)
    ]
    plain, drafted, quick = (
        list(generate(each, tokenizer, list(range(5, 30)), config, model=model))[-1]
        for each, model in ((resident, None), (decoder, twins[0]), (resident, twins[1]))
    )
    assert plain.token_ids == drafted.token_ids == quick.token_ids
    assert drafted.judged_tokens > 0 and drafted.plain_tpot and quick.judged_tokens == 0


class Timed(PassCosts):
    """Passes that always take so many seconds."""

    def __init__(self, seconds: float, streamed: bool = False):
        super().__init__(streamed=streamed)
        self._seconds = seconds

    def add(self, rows, seconds):
        super().add(rows, self._seconds)


def test_the_first_answer_whose_weights_come_from_disk_takes_at_most_a_quarter_of_the_passes(models, monkeypatch):
    resident = load_dense(opened(models("qwen2")), "fp32")
    decoder, tokenizer = streamed(models("qwen2"), monkeypatch), load_tokenizer(models("qwen2"), "qwen2")
    model = DraftModel.beside("twin", resident, decoder)
    model.payoff.passes, model.payoff.drafts = Timed(1.0, streamed=True), Timed(0.06)
    config = GenerationConfig(max_new_tokens=60)
    plain, drafted = (
        list(generate(each, tokenizer, list(range(5, 30)), config, model=drafter))[-1]
        for each, drafter in ((resident, None), (decoder, model))
    )
    assert drafted.token_ids == plain.token_ids and drafted.new_tokens > 40
    assert drafted.new_tokens - drafted.accepted_tokens <= drafted.new_tokens / 4


@pytest.mark.parametrize("kernel", ["native", "reference"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_type_of_float_can_be_streamed_by_every_kernel(dtype, kernel, models, tmp_path, monkeypatch):
    monkeypatch.setenv("ITREX_CHAT_KERNEL", kernel)
    folder = converted(models("llama"), tmp_path / "model", dtype)
    assert all(map(bit_equal, read(streamed(folder, monkeypatch)), read(load_dense(opened(folder), "fp32"))))


def test_bf16_is_streamed_too(models, monkeypatch):
    resident = load_dense(opened(models("qwen")), "bf16")
    assert all(map(bit_equal, read(streamed(models("qwen"), monkeypatch, "bf16")), read(resident)))


def test_a_file_system_that_keeps_everything_in_its_cache_is_read_through_it(models, monkeypatch):
    real = os.open

    def opened_indirectly(path, flags, *more):
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return real(path, flags, *more)

    monkeypatch.setattr("itrex_chat.native.stream.os.open", opened_indirectly)
    decoder = streamed(models("qwen2"), monkeypatch)
    monkeypatch.undo()
    assert all(map(bit_equal, read(decoder), read(load_dense(opened(models("qwen2")), "fp32"))))


def test_layers_that_a_pass_does_not_need_are_passed_over(models, monkeypatch):
    """As where layers are replaced by quantized ones, one after the other, and where a prompt's beginning needs no logits."""
    decoder, resident = streamed(models("llama"), monkeypatch), load_dense(opened(models("llama")), "fp32")
    own = [
        DenseLinear(torch.cat([part.weight for part in parts_of(block.qkv)])).weight.clone()
        for block in resident.blocks
    ]
    for number in range(len(decoder.blocks)):
        blocks = list(decoder.blocks)
        blocks[number] = dataclasses.replace(blocks[number], qkv=DenseLinear(own[number]))
        mixed = dataclasses.replace(decoder, blocks=tuple(blocks)).with_native_pass()
        for one in (mixed, decoder):
            cache = one.new_cache(64)
            cache.begin([20])
            one.read([Chunk(0, range(3, 23), 0)], cache)
            one.read([Chunk(0, [5])], cache)
        assert all(map(bit_equal, read(mixed), read(resident)))


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_streamed_is_a_sentence(change, models, tmp_path, monkeypatch):
    folder = shutil.copytree(models("qwen2"), tmp_path / "model")
    [file] = folder.glob("*.safetensors")
    is_refused_after(CHANGES[change], streamed(folder, monkeypatch), file)


def test_a_value_that_is_no_finite_number_is_named_when_it_was_read(models, tmp_path, monkeypatch):
    folder = converted(models("llama"), tmp_path / "bad", torch.float16)
    [file] = folder.glob("*.safetensors")
    tensors = load_file(file)
    tensors["model.layers.1.mlp.down_proj.weight"][-1, -1] = float("nan")
    save_file(tensors, file)
    decoder = streamed(folder, monkeypatch)
    with pytest.raises(
        CheckpointError, match="the tensor model.layers.1.mlp.down_proj.weight holds values that are not"
    ):
        read(decoder)


MATRICES = [(f"{layer}.{name}", size << 20) for layer in range(20) for name, size in (("a", 100), ("b", 300))]
MATRICES += [("head", 500 << 20)]
TOTAL = sum(size for _name, size in MATRICES)


def test_nothing_is_streamed_where_all_of_it_fits():
    assert plan(MATRICES, streaming.RING + 1000, TOTAL + 1000) == Streaming(resident=TOTAL)
    assert plan(MATRICES, streaming.RING + 1000, TOTAL + 999).streamed


def test_what_does_not_lie_in_files_is_not_streamed():
    assert plan([], 1000, 10) == Streaming()


@pytest.mark.parametrize("free", [1, 2, 4, 6, 8])
def test_what_stays_in_memory_is_a_fixed_part_of_every_layer_that_leaves_some_memory_alone(free):
    least = streaming.RING + (600 << 20)
    planned = plan(MATRICES, least, free << 30)
    assert planned.resident == sum(size for name, size in MATRICES if name not in planned.streamed)
    assert planned.resident == 0 or planned.resident + least + streaming.LEFT_ALONE < free << 30
    if planned.resident > 1 << 30:
        assert "head" not in planned.streamed
        halves = [
            sum(size for name, size in part if name not in planned.streamed)
            for part in (MATRICES[:20], MATRICES[20:40])
        ]
        assert max(halves) - min(halves) <= 600 << 20 and planned.resident > (free << 30) * 0.9 - least - (900 << 20)


def test_a_drafter_takes_the_place_of_weights_where_that_pays():
    least, drafter = streaming.RING + (600 << 20), 3 << 30
    beside, alone = Room(6 << 30, least, drafter), Room(6 << 30, least)
    assert beside.plan(MATRICES).resident < alone.plan(MATRICES).resident
    nearly = Room(TOTAL + least, least, drafter)
    assert nearly.plan(MATRICES) == Room(TOTAL + least, least).plan(MATRICES)
    none = Room(3 << 30, least, drafter)
    assert none.plan(MATRICES) == Room(3 << 30, least).plan(MATRICES)


FACTS = Facts(1, 1, 2, "native", "", "fp32", 1, 4 * 10**9, "float16", {}, streamed_bytes=2 * 10**9)


def test_a_forecast_counts_the_passes():
    pace = Pace(each=2.0, token=0.1)
    assert forecast([5, 5], [10, 20], 1, FACTS, pace, True).seconds == 2 * 30
    assert forecast([5, 5, 5], [10, 20, 10], 2, FACTS, pace, True).seconds == 2 * 20
    assert forecast([30, 50], [10, 20], 1, FACTS, pace, True).seconds == pytest.approx(3 + 2 * 9 + 5 + 2 * 19)
    drafted = dataclasses.replace(FACTS, drafter=DrafterFacts("int4"))
    assert forecast([5, 5], [11, 21], 1, drafted, pace, False).seconds == 2 * (2 + 2 + 2 + 3)
    assert forecast([5, 5], [1, 2], 1, drafted, pace, True).seconds == 2 * (1 + 2)
    assert forecast([4] * 4, [11] * 4, 4, drafted, pace, True).seconds == 2 * (2 + 3)
    assert forecast([4] * 4, [11] * 4, 16, drafted, pace, True).seconds == 2 * (
        2 + 3
    )  # four questions are four at a time
    assert forecast([5] * 16, [11] * 16, 16, drafted, pace, True).seconds > 2 * 11  # no row is left for drafts
    slow = dataclasses.replace(pace, draft=0.2)
    assert forecast([5], [11], 1, drafted, slow, True).seconds == pytest.approx(2 * 4 + 1.25 * 11 * 0.2)
    assert forecast([5], [11], 1, FACTS, slow, True).seconds == 2 * 11


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_a_forecast_counts_the_passes_that_there_are(batch, models, monkeypatch):
    decoder, tokenizer = load_dense(opened(models("qwen2")), "fp32"), load_tokenizer(models("qwen2"), "qwen2")
    seen, read = [], Decoder.read

    def watched(self, chunks, cache):
        seen.append(sum(len(chunk.ids) for chunk in chunks))
        return read(self, chunks, cache)

    monkeypatch.setattr(Decoder, "read", watched)
    prompts = [list(range(5, 5 + length)) for length in (3, 17, 40, 1, 25, 9, 2, 7)]
    config = GenerationConfig(max_new_tokens=9, repetition_penalty=0.7)
    found = [
        piece
        for _number, piece in generate_together(decoder, tokenizer, prompts, config, batch)
        if isinstance(piece, Response)
    ]
    by_prompt = {tuple(each.prompt_token_ids): each.new_tokens + (each.finish_reason == "stop") for each in found}
    pace = Pace(each=1.0, token=1 / 16)
    foretold = forecast(
        [*map(len, prompts)], [by_prompt[tuple(prompt)] for prompt in prompts], batch, FACTS, pace, True
    )
    assert foretold.seconds == sum(max(1.0, rows / 16) for rows in seen)


def test_ask_says_what_is_read_from_disk_and_gets_the_same_tokens(models, asked, tmp_path):
    lines, said, complained = {}, {}, {}
    for name, settings in {"memory": (), "disk": ("--set", "fp32.memory", "0.1")}.items():
        out = tmp_path / name
        process = run(
            models("chatglm3"), asked, out, "--variants", "fp32,int4", "--set", "generation.draft", "none", *settings
        )
        code, said[name], complained[name] = finished(process)
        assert code == 0, complained[name]
        lines[name] = {(line["variant"], line["id"]): line["token_ids"] for line in answers(out)}
    assert lines["memory"] == lines["disk"] and len(lines["disk"]) == 4
    assert "of weights are read from disk for each pass" in said["disk"] and "2 questions take about" in said["disk"]
    assert "from disk" not in said["memory"] and "fp32.memory" not in complained["memory"]
    assert "at least, which is more than the 100 MB of fp32.memory" in complained["disk"]
    assert said["disk"].index("INT4") < said["disk"].index("FP32, kept in 16 bits")


@pytest.fixture(scope="module")
def unhurt(models, tmp_path_factory) -> tuple[Path, Path, float]:
    """A question set, a whole run with weights that are read from disk, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("unhurt")
    (folder / "set.yaml").write_text(
        "name: three\nquestions:\n" + "".join(f"  - {{id: {id}, text: {id}}}\n" for id in ("a", "b", "c")), "utf-8"
    )
    began = time.monotonic()
    code, _out, error = finished(asking(models, folder / "set.yaml", folder / "run"))
    assert code == 0, error
    return folder / "set.yaml", folder / "run", time.monotonic() - began


def asking(models, asked: Path, out: Path, **popen):
    return run(
        models("chatglm3"), asked, out, *("--variants", "fp32", "--set", "fp32.memory", "0.1", "--batch", "2"), **popen
    )


def tokens(out: Path) -> dict:
    return {line["id"]: line["token_ids"] for line in answers(out)}


def test_a_streamed_run_that_is_killed_is_continued_to_the_same_answers(unhurt, models, tmp_path):
    asked, whole, seconds = unhurt
    process = asking(models, asked, tmp_path / "run")
    time.sleep(random.uniform(0.4, 1) * seconds)
    process.kill()
    process.communicate()
    code, _out, error = finished(asking(models, asked, tmp_path / "run"))
    assert code == 0, error
    assert tokens(tmp_path / "run") == tokens(whole)


def test_a_streamed_run_whose_record_has_no_room_ends_in_a_sentence_and_goes_on(unhurt, models, tmp_path):
    asked, whole, _seconds = unhurt
    most = (whole / "run.json").stat().st_size - 200  # without what is noted at the end

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    code, _out, error = finished(asking(models, asked, tmp_path / "run", preexec_fn=small))
    assert code and "Traceback" not in error and "File too large" in error, error
    code, _out, error = finished(asking(models, asked, tmp_path / "run"))
    assert code == 0, error
    assert tokens(tmp_path / "run") == tokens(whole)
