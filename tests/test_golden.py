"""Golden values: what the models' own published code and neural-compressor 2.6 gave."""

import json
import shutil
from pathlib import Path

import golden_checkpoints
import numpy as np
import pytest
import torch
from conftest import SHARED

from itrex_chat import sources
from itrex_chat.chat import load_tokenizer
from itrex_chat.chat.messages import as_messages
from itrex_chat.chat.streaming import TextStream
from itrex_chat.checkpoints import open_checkpoint
from itrex_chat.engines.native.weights import load_dense
from itrex_chat.quantization.rtn import quantize_rows

GOLDEN = Path(__file__).parent / "golden"
CASES = ("hello", "winter-summer", "system-multi-turn", "long-meaning")
FOLDERS = {"chatglm3": "chatglm3-6b", "qwen": "qwen-7b-chat", "baichuan2": "baichuan2-7b-chat"}


@pytest.fixture(scope="module", params=FOLDERS)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def decoder(family, tmp_path_factory):
    folder = getattr(golden_checkpoints, family)(tmp_path_factory.mktemp("golden") / family)
    yield load_dense(open_checkpoint(sources.local(folder)), "fp32")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def expected(family):
    return np.load(GOLDEN / f"{family}.npz")


@pytest.mark.parametrize("case", CASES)
def test_fp32_logits_are_the_published_models(decoder, expected, case):
    ids = expected[f"{case}.ids"].tolist()
    cache = decoder.new_cache(len(ids))
    cache.begin([len(ids)])
    logits = decoder.forward(torch.tensor([ids]), cache, all_logits=True)[0].numpy()
    assert np.abs(logits[-1, expected[f"{case}.places"]] - expected[f"{case}.last"]).max() < 1e-4
    assert np.abs(logits[:, :16] - expected[f"{case}.first"]).max() < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_sixteen_greedy_tokens_are_the_published_models(decoder, expected, case):
    ids = expected[f"{case}.ids"].tolist()
    cache = decoder.new_cache(len(ids) + 16)
    cache.begin([len(ids)])
    logits, tokens = decoder.forward(torch.tensor([ids]), cache), []
    for _step in range(16):
        tokens.append(int(logits[0].argmax()))
        logits = decoder.forward(torch.tensor([tokens[-1:]]), cache)
    assert tokens == expected[f"{case}.greedy"].tolist()


@pytest.mark.parametrize("scheme", ["fullrange", "clip"])
@pytest.mark.parametrize("group_size", [32, 64])
@pytest.mark.parametrize("name", ["square", "tall", "edge"])
def test_rtn_integers_and_scales_are_neural_compressors(name, group_size, scheme):
    golden = np.load(GOLDEN / "rtn.npz")
    weight = torch.from_numpy(golden[f"{name}.weight"]).float()
    integers, scales = quantize_rows(weight, f"int4_{scheme}", group_size)
    assert np.array_equal(integers.numpy(), golden[f"{name}.g{group_size}.{scheme}.int"])
    assert np.array_equal(scales.numpy(), golden[f"{name}.g{group_size}.{scheme}.scale"])


@pytest.fixture(scope="module")
def tokenizer(family, real_vocabularies):
    return load_tokenizer(real_vocabularies / FOLDERS[family], family)


@pytest.fixture(scope="module")
def texts(family, real_vocabularies):
    return json.loads((SHARED / "golden" / f"{family}-tiny.json").read_text("utf-8"))


def test_prompts_are_the_published_models_id_for_id(tokenizer, texts):
    for conversation in texts["conversations"]:
        assert tokenizer.prompt(as_messages(conversation["messages"])) == conversation["input_ids"], conversation[
            "name"
        ]


def test_texts_become_the_published_ids_and_back(tokenizer, texts):
    for entry in texts["texts"]:
        assert tokenizer.encode(entry["text"]) == entry["ids"]
        assert tokenizer.decode(entry["ids"]) == entry["decoded"]


def test_streamed_pieces_hold_no_half_characters(tokenizer, texts):
    for entry in texts["texts"]:
        if "</s>" in entry["text"]:
            continue  # Baichuan2's published decoder puts spaces around control tokens; answers have none
        stream = TextStream(tokenizer.decode)
        pieces = [stream.add(token) for token in entry["ids"]] + [stream.end()]
        assert "".join(pieces) == entry["decoded"]
        assert not any("\ufffd" in piece for piece in pieces)
