"""The benchmark's small model: a tiny one is trained here in two steps, and goes through everything but llama.cpp's programs."""

import functools
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from itrex_chat import sources
from itrex_chat.chat.messages import Message
from itrex_chat.checkpoints import open_checkpoint
from itrex_chat.engines.on_disk import of_checkpoint
from itrex_chat.neuralchat.chatbot import load_chatbot
from itrex_chat.settings import recipe as recipes

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True, scope="module")
def importable():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, importable):
    """A function that makes a folder of that name with a tokenizer and tokens, and gives the training in it, of two steps."""
    from trained import training
    from trained.texts import Texts

    home = tmp_path_factory.mktemp("trained")
    words = ["def first(numbers):\n    return numbers[0]  # 一个数\n", "What is held out is not read.\n"]
    chats = [("What does os.getcwd do?", "Return the current folder.")]
    shape = training.Shape(256, 256, 1, 4, 2, vocabulary=320, context=64)

    def prepare(name: str) -> training.Training:
        if not (home / name).exists():
            training.prepare(home / name, shape, Texts([" ".join(words) * 40, words[0] * 60], chats, words, words))
        return training.Training(home / name, shape, training.Plan(2, rows=1, length=32))

    return prepare


@pytest.fixture(scope="module")
def model(prepared):
    """The folder of the trained checkpoint."""
    training = prepared("whole")
    training.go_on(2)
    return training.finish()


def test_training_goes_on_where_it_was_interrupted(prepared, model):
    prepared("interrupted").go_on(1)
    training = prepared("interrupted")
    assert training.done == 1
    training.go_on(2)
    resumed, whole = load_file(training.finish() / "model.safetensors"), load_file(model / "model.safetensors")
    assert resumed.keys() == whole.keys() and {value.dtype for value in whole.values()} == {torch.float16}
    assert all(resumed[name].equal(whole[name]) for name in whole)


def test_a_gguf_file_of_the_model_is_the_same_model_with_the_same_tokens(model, home, tmp_path):
    from measuring import gguf_f16
    from trained import vocabulary

    gguf_f16.main(model, tmp_path / "f16.gguf", functools.partial(vocabulary.add_to_gguf, model))
    folder, file = recipes.load(str(model)), recipes.load(str(tmp_path / "f16.gguf"))
    given, converted = (open_checkpoint(sources.resolve(recipe)) for recipe in (folder, file))
    for spec in given.specs():
        assert converted.tensor(spec).float().equal(given.tensor(spec).float()), spec.name
    texts = [(BENCHMARKS.parent / name).read_text("utf-8") for name in ("README.zh-CN.md", "setup.py")]
    ours, theirs = (of_checkpoint(recipe).tokenizer(recipe) for recipe in (folder, file))
    for text in [*texts, "it's  \n\n\t12 ünï\r\n<|im_end|>"]:
        assert theirs.encode(text) == ours.encode(text)
        assert ours.decode(ours.encode(text)) == text


def test_the_template_gives_what_the_training_has_seen(model, home):
    from trained import vocabulary

    prompt = load_chatbot(recipes.load(str(model)), "fp32").session.prompt([Message("user", "What does os.getcwd do?")])
    seen = Tokenizer.from_file(str(model / "tokenizer.json")).encode(vocabulary.chat("What does os.getcwd do?", "")).ids
    assert prompt == seen[: len(prompt)] and len(prompt) == len(seen) - 2  # what ends the answer, and the line


def test_an_artifact_s_weights_as_floats_are_its_weights(model, home, tmp_path):
    from measuring import gguf_f16
    from trained import dequantized

    recipe = recipes.load(str(model))
    artifact = dequantized.write(recipe, tmp_path / "floats")
    gguf_f16.main(tmp_path / "floats", tmp_path / "floats.gguf", matrices="float32")
    floats = open_checkpoint(sources.local(tmp_path / "floats.gguf"))
    assert len(artifact.manifest["matrices"]) == 8  # seven of the layer, and the head
    for name in artifact.manifest["matrices"]:
        spec = next(spec for spec in floats.specs() if spec.name == f"{name}.weight")
        assert floats.tensor(spec).equal(artifact.matrix(name).dequantize()), name


def test_the_positions_scored_are_those_that_llama_cpp_scores(tmp_path):
    """It keeps 255 of a window's 512: the tokens from number 257 on."""
    from trained.divergence import passage
    from trained.llama_tools import windows_of

    ids = np.arange(1024, dtype=np.int32)
    (tmp_path / "base").write_bytes(struct.pack("<8s3i", b"_logits_", 512, 2000, 2) + ids.tobytes() + b"predictions")
    windows = windows_of(tmp_path / "base")
    assert windows == [list(range(512)), list(range(512, 1024))]
    second = passage("text", 2, windows[1])
    assert second.positions == 255 and second.ids[second.first] == 512 + 257


def test_the_same_model_diverges_by_nothing_and_int4_by_something(model, home):
    from trained import divergence

    recipe = recipes.load(str(model))
    windows = [divergence.passage("text", number, list(range(number, number + 48))) for number in (1, 2)]
    reference = divergence.Reference(recipe, windows)
    same, int4 = (divergence.figures(reference.found(recipe, name, name))["text"] for name in ("fp32", "int4"))
    assert same["kld_mean"].value == 0 and same["same_top"].value == 1
    assert int4["kld_mean"].value > 0


def test_a_ratio_of_divergences_is_surer_where_hard_windows_are_hard_for_both():
    from trained.divergence import ratio

    theirs = [0.01, 0.02, 0.04, 0.08]
    alike, unlike = ratio([0.005, 0.011, 0.019, 0.041], theirs), ratio([0.041, 0.019, 0.011, 0.005], theirs)
    assert alike.value == pytest.approx(unlike.value) == pytest.approx(0.076 / 0.15)
    assert alike.low > 0.45 and alike.high < 0.56 and unlike.low < 0.1 and unlike.high > 2
    assert ratio([0.01], [0.02]).low is None


def test_questions_are_what_public_names_say_of_themselves():
    from trained.texts import _questions

    source = 'def open(x):\n    """Open it."""\n\n\nclass _Hidden:\n    """No."""\n\n\ndef silent():\n    pass\n'
    assert [*_questions("os", source)] == [("What does os.open do?", "Open it.")]
    assert [*_questions("os", "print 'old'")] == []


def test_the_front_line_has_whoever_is_beaten_by_nothing_with_as_few_bits():
    from trained.table import front, markdown

    def row(bits, kl, **more):
        figure = {"value": kl, "low": kl, "high": None}
        theirs = {"mean": kl, "error": 0.0, "same_top": 0.9, "same_top_error": 0.0}
        texts = ("same-kind", "other-kind")
        ours = dict.fromkeys(texts, {"kld_mean": figure, "same_top": figure, "ppl_base": figure})
        more["by_window"] = dict.fromkeys(texts, [kl, kl])
        return {
            "bits": bits,
            "bytes": 10,
            "format": str(bits),
            "theirs": dict.fromkeys(texts, theirs),
            "ours": ours,
        } | more

    rows = {
        "Q4_0, as floats": row(32.0, 0.01),
        "large": row(5.0, 0.02),
        "worse": row(4.9, 0.05),
        "INT4 rtn": row(4.9, 0.05, settings=[]),
        "small": row(4.5, 0.04, settings=[]),
        "as small": row(4.5, 0.06),
    }
    assert front(rows, "same-kind") == ["small", "large"]
    about = {"weights": 1e6, "positions": 2, "windows": 1}
    speeds = {"4.5": {"median": 7.0, "p25": 6.0, "p75": 8.0, "count": 3}}
    table = markdown({"rows": rows, "about": about}, speeds)
    assert "worse has 1.00 [1.00, 1.00] on a text like the training" in table
    assert table.count("| 7 (6–8) |") == 2 and "small; large" in table and "[0.04000, …]" in table
