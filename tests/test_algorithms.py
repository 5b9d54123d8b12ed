"""What the algorithms find: beside small implementations in numpy, beside round-to-nearest, and through the recipe."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from interrupted_blocks import interrupt_each_block_once
from tqdm import tqdm

from itrex_chat import AutoRoundConfig, AwqConfig, GPTQConfig, RtnConfig, TeqConfig, sources
from itrex_chat.architecture.layout import TensorSpec
from itrex_chat.artifacts import manifest as manifests
from itrex_chat.artifacts.artifact import Artifact
from itrex_chat.artifacts.obtaining import obtain
from itrex_chat.artifacts.store import ArtifactStore
from itrex_chat.calibration import driver, folding, texts
from itrex_chat.calibration.inputs import Inputs, Seen
from itrex_chat.calibration.rounding import Rounded
from itrex_chat.chat import load_tokenizer
from itrex_chat.checkpoints import open_checkpoint
from itrex_chat.decoder.linear import DenseLinear
from itrex_chat.foundation.errors import CheckpointError, RecipeError, RunError
from itrex_chat.jobs.passage import Passage
from itrex_chat.quality import measuring
from itrex_chat.quantization import awq, search
from itrex_chat.quantization.gptq import RIDGE, Curvature, gptq_rows
from itrex_chat.quantization.plan import Treatment, plan
from itrex_chat.quantization.rtn import integer_range, quantize_rows
from itrex_chat.quantization.search import searched_rows
from itrex_chat.settings import questions
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.quantization import ALGORITHMS, CALIBRATED, Quantization

GROUP = 32


def whole(integers: torch.Tensor, scales: torch.Tensor, group: int = GROUP) -> torch.Tensor:
    return integers * scales.half().float().repeat_interleave(group, 1)


def inputs(count: int, width: int, seed: int = 0) -> torch.Tensor:
    """Activations that depend on each other, a few channels of them large."""
    made = torch.Generator().manual_seed(seed)
    shared = torch.randn(count, width // 4, generator=made) @ torch.randn(width // 4, width, generator=made)
    return (shared + torch.randn(count, width, generator=made)) * torch.rand(width, generator=made).pow(3) * 4


def hessian_of(x: torch.Tensor) -> torch.Tensor:
    return x.t() @ x / len(x)


@pytest.fixture
def tiny(tmp_path) -> Path:
    return tiny_models.standard(tmp_path / "model", "qwen2", num_hidden_layers=4)


@pytest.fixture
def book(tmp_path) -> Path:
    file = tmp_path / "book.txt"
    file.write_text(
        "今天天气很好，我们一起去公园散步。The quick brown fox is lazy. def f(x): return x ** 2\n" * 120, "utf-8"
    )
    return file


def gptq_of(model: Path, book: Path, *settings: str) -> Artifact:
    wanted = ["quantization.algorithm", "gptq", "quantization.calibration", f"[{book}]", *settings]
    return obtain(recipes.load(str(model), wanted)).artifact


def bytes_of(artifact: Artifact) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in artifact.folder.glob("*.safetensors")}


# The arithmetic


@pytest.mark.parametrize("weight_dtype", ["int4_fullrange", "int4_clip"])
def test_no_scale_of_a_fine_grid_loses_much_less_than_the_one_that_is_found(weight_dtype):
    low, high = integer_range(weight_dtype)
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(1))
    counts = torch.rand(64, generator=torch.Generator().manual_seed(2)) ** 3
    difference = (whole(*searched_rows(weight, weight_dtype, GROUP, counts)) - weight).double().numpy()
    found = (difference**2 * counts.numpy()).reshape(12, GROUP).sum(1)
    groups, d = weight.double().numpy().reshape(12, GROUP), np.tile(counts.numpy().reshape(2, GROUP), (6, 1))
    leasts = []
    for group, count, lost in zip(groups, d, found):
        signs = (1,) if -low == high else (1, -1)
        grid = np.concatenate([sign * np.linspace(0.08, 0.25, 3000) * np.abs(group).max() for sign in signs])[:, None]
        leasts.append((count * (group - grid * np.clip(np.rint(group / grid), low, high)) ** 2).sum(1).min())
        assert lost <= 1.3 * leasts[-1] + 1e-9
    assert found.sum() <= 1.05 * sum(leasts)


@pytest.mark.parametrize("group, width", [(32, 96), (64, 64 * 17), (128, 256)])
def test_the_kernels_find_the_scales_of_the_definition_bit_for_bit(level, group, width, monkeypatch):
    weight = torch.randn(5, width, generator=torch.Generator().manual_seed(3)) * 0.02
    weight[1, :group], weight[2, 0] = 0, 3.0
    counts = torch.rand(width, generator=torch.Generator().manual_seed(4)) ** 4
    for weight_dtype in ("int4_fullrange", "int4_clip"):
        for importance in (None, counts):
            fast = searched_rows(weight, weight_dtype, group, importance)
            with monkeypatch.context() as here:
                here.setattr(search.native, "missing", lambda: "not here")
                slow = searched_rows(weight, weight_dtype, group, importance)
            assert all(torch.equal(a, b) for a, b in zip(fast, slow))


def naive_gptq(weight: np.ndarray, scales: np.ndarray, hessian: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Optimal brain quantization in float64: one weight after the other, with the inverse of what is left of H."""
    left, integers, rest = weight.copy(), np.zeros(weight.shape), list(order)
    while rest:
        inverse = np.linalg.inv(hessian[np.ix_(rest, rest)])
        column, scale = rest[0], scales[:, rest[0] // GROUP]
        integers[:, column] = np.clip(np.rint(left[:, column] / scale), -8, 7)
        error = left[:, column] - integers[:, column] * scale
        left[:, rest] -= np.outer(error, inverse[0] / inverse[0, 0])
        rest.pop(0)
    return integers


def test_gptq_is_the_naive_algorithm_with_the_inverse_of_what_is_left():
    weight = torch.randn(16, 96, generator=torch.Generator().manual_seed(5)) * 0.05
    curvature = Curvature.of(hessian_of(inputs(400, 96)))
    integers, scales = gptq_rows(weight, "int4_fullrange", GROUP, curvature)
    naive = naive_gptq(
        weight.double().numpy(), scales.double().numpy(), curvature.hessian.double().numpy(), curvature.order.numpy()
    )
    assert (integers.numpy() == naive).mean() > 0.999


def naive_awq(weight: np.ndarray, x: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Powers of mean magnitudes and what each loses, in float64, with the scale of a fine grid for each group."""

    def rounded(scaled: np.ndarray, counts: np.ndarray) -> np.ndarray:
        out = np.empty_like(scaled)
        for row in range(len(scaled)):
            for start in range(0, scaled.shape[1], GROUP):
                group, count = scaled[row, start : start + GROUP], counts[start : start + GROUP]
                grid = np.abs(group).max() * np.concatenate([np.linspace(0.1, 0.2, 200), -np.linspace(0.1, 0.2, 200)])
                tried = grid[:, None] * np.clip(np.rint(group / grid[:, None]), -8, 7)
                out[row, start : start + GROUP] = tried[((tried - group) ** 2 * count).sum(1).argmin()]
        return out

    logs, powers, losses = np.log(np.abs(x).mean(0)), [], []
    for step in range(20):
        powers.append(np.exp((logs - logs.mean()) * step / 20))
        difference = rounded(weight * powers[-1], (x**2).mean(0) / powers[-1] ** 2) / powers[-1] - weight
        losses.append(((x @ difference.T) ** 2).sum())
    return powers, np.array(losses)


def test_awq_finds_the_power_of_the_magnitudes_that_loses_least():
    weight = torch.randn(12, 64, generator=torch.Generator().manual_seed(8)) * 0.05
    x = inputs(300, 64, seed=9) + torch.randn(300, 64, generator=torch.Generator().manual_seed(10)) * 0.3
    powers, lost = naive_awq(weight.double().numpy(), x.double().numpy())
    factor = awq.factors(weight, "int4_fullrange", GROUP, x.abs().mean(0), x.square().mean(0), x).numpy()
    [found] = [step for step, power in enumerate(powers) if np.allclose(power, factor, rtol=1e-3)]
    assert lost[found] < 1.05 * lost.min() and lost.min() < 0.9 * lost[0]


def test_what_is_before_a_matrix_takes_the_factors_of_its_inputs():
    made_by = torch.Generator().manual_seed(10)
    heads, groups, width, hidden = 4, 2, 8, 64
    weight, bias = torch.randn(48, hidden, generator=made_by), torch.randn(48, generator=made_by)
    pairs = {name: searched_rows(part, "int4_fullrange", GROUP) for name, part in zip("qv", weight.split((32, 16)))}
    stored = {name: {f"{name}.scales": scales.t().half().contiguous()} for name, (_integers, scales) in pairs.items()}
    linear = DenseLinear(torch.cat([whole(*pair) for pair in pairs.values()]), bias)
    before = folding.Rows({"q": 32, "v": 48}, linear, 32, width, heads // groups)
    x = torch.randn(5, hidden, generator=made_by)

    def shared() -> torch.Tensor:
        """The values of each group of heads, once for each of its heads."""
        return linear(x)[:, 32:].view(5, groups, 1, width).expand(-1, -1, heads // groups, -1).reshape(5, -1)

    wanted, queries = shared(), linear(x)[:, :32]
    factors = awq.powers(before.evened(torch.rand(heads * width, generator=made_by) + 0.01), 0.7)
    before.divide(factors, stored)
    assert torch.allclose(shared() * factors, wanted, rtol=2e-3, atol=2e-3) and torch.equal(linear(x)[:, :32], queries)
    assert torch.allclose(whole(pairs["v"][0], stored["v"]["v.scales"].t()), linear.weight[32:])
    assert torch.equal(stored["v.bias"]["v.bias"], linear.bias[32:]) and "q.bias" not in stored


@pytest.mark.parametrize("weight_dtype", ["int4_fullrange", "int4_clip"])
def test_autorounds_steps_are_those_of_its_gradients_by_hand(weight_dtype):
    low, high = integer_range(weight_dtype)
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(15)) * 0.05
    x, rounded = (
        inputs(40, 64, seed=16),
        Rounded(weight, Treatment(TensorSpec("w.weight", (6, 64), "linear"), weight_dtype, GROUP)),
    )
    w, wanted = weight.double().numpy(), (x @ weight.t()).double().numpy()
    base = quantize_rows(weight.clone(), weight_dtype, GROUP)[1].double().numpy()
    offsets, shares = np.zeros((6, 64)), np.ones((6, 2))
    for size in (0.3, 0.2):
        (x @ rounded().t() - x @ weight.t()).square().sum().backward()
        rounded.step(size)
        steps = (base * shares).astype(np.float16).astype(np.float64).repeat(GROUP, 1)
        near = np.rint(w / steps + offsets)
        inside, integers = (near >= low) & (near <= high), np.clip(near, low, high)
        slope = 2 * (x.double().numpy() @ (integers * steps).T - wanted).T @ x.double().numpy()
        by_scale = slope * np.where(inside, integers - w / steps, integers)
        shares = np.clip(shares - size * np.sign(by_scale.reshape(6, 2, GROUP).sum(2) * base), 0.5, 1)
        offsets = np.clip(offsets - size * np.sign(slope * steps * inside), -0.5, 0.5)
        assert (np.abs(rounded.offsets.detach().numpy() - offsets) < 1e-6).mean() > 0.99
        assert np.abs(rounded.shares.detach().numpy() - shares).max() < 1e-6
    integers, scales = rounded.found()
    assert integers.min() >= low and integers.max() <= high
    assert torch.equal(whole(integers, scales), rounded().detach())


def test_rows_are_changed_by_what_explains_what_their_products_lack():
    x = inputs(400, 48, seed=11)
    there = x + inputs(400, 48, seed=12) * 0.05
    weight = torch.randn(20, 48, generator=torch.Generator().manual_seed(13)) * 0.05
    for through in (True, False):
        seen, beside = Inputs(48, True), torch.randn(400, 20, generator=torch.Generator().manual_seed(14)) * 0.01
        lacking = (there - x) @ weight.t() + (0 if through else beside)
        for part in (slice(0, 150), slice(150, 400)):
            seen.add(Seen(x[part], (there - x)[part]) if through else Seen(x[part], outputs=lacking[part]))
        found = weight + seen.nearer(weight)
        ridge = np.sqrt(400 * RIDGE * seen.curvature.hessian.diagonal().double().numpy())
        damped = np.sqrt(400 * (seen.curvature.hessian - hessian_of(x)).diagonal().double().numpy())
        rows = np.concatenate([x.double().numpy(), np.diag(ridge), np.diag(damped)])
        wanted = np.concatenate([lacking.double().numpy(), np.zeros((96, 20))])
        naive = weight.double().numpy() + np.linalg.lstsq(rows, wanted, rcond=None)[0].T
        assert np.abs(found.double().numpy() - naive).max() < 1e-5


def test_the_texts_that_gptq_follows_go_through_the_blocks_as_they_are(models, book):
    from itrex_chat.decoder.model import Chunk
    from itrex_chat.engines.native.weights import load_dense

    checkpoint = open_checkpoint(sources.local(models("glm4")))
    quantization = Quantization(algorithm="gptq", keep_layers=(1,))
    ids = load_tokenizer(models("glm4"), checkpoint.family).encode(book.read_text("utf-8"))[:96]
    blocks = driver.BlockWise(checkpoint, plan(checkpoint, quantization), [ids[:64], ids[64:]])
    with tqdm(disable=True) as bar:
        for _block in range(checkpoint.decoder.layers):
            blocks._next_block(bar)
    decoder = load_dense(checkpoint, "fp32")
    cache = decoder.new_cache(64)
    cache.begin([64])
    wanted = decoder.read([Chunk(0, ids[:64], 64)], cache)[0]
    [found] = decoder._logits(blocks.exact, [(0, 64)])
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-3)
    [quantized] = decoder._logits(blocks.inputs, [(0, 64)])
    assert not torch.allclose(quantized, wanted, rtol=1e-3, atol=1e-3)


def loss(weight: torch.Tensor, integers: torch.Tensor, scales: torch.Tensor, hessian: torch.Tensor) -> float:
    difference = whole(integers, scales) - weight
    return float(((difference @ hessian) * difference).sum())


def losses(weight: torch.Tensor, x: torch.Tensor) -> dict[str, float]:
    """What each algorithm loses on half of the inputs, from the other half."""
    seen, unseen = hessian_of(x[::2]), hessian_of(x[1::2])
    wanted = "int4_fullrange", GROUP
    found = {
        "rtn": quantize_rows(weight.clone(), *wanted),
        "importance": searched_rows(weight, *wanted, seen.diagonal()),
        "gptq": gptq_rows(weight, *wanted, Curvature.of(seen)),
    }
    return {name: loss(weight, *pair, unseen) for name, pair in found.items()}


def test_each_algorithm_loses_less_than_rounding_to_nearest_on_inputs_that_it_has_not_seen():
    weight = torch.randn(96, 192, generator=torch.Generator().manual_seed(6)) * 0.05
    found = losses(weight, inputs(2000, 192))
    assert found["importance"] < 0.9 * found["rtn"] and found["gptq"] < 0.5 * found["rtn"]
    plain = searched_rows(weight, "int4_fullrange", GROUP)
    nearest = quantize_rows(weight.clone(), "int4_fullrange", GROUP)
    assert loss(weight, *plain, torch.eye(192)) < 0.95 * loss(weight, *nearest, torch.eye(192))


def test_each_algorithm_loses_less_on_matrices_of_a_real_model(package_cache):
    checkpoint = open_checkpoint(sources.resolve(recipes.load(recipes.EMBEDDED), package_cache))
    specs = {spec.name: spec for spec in checkpoint.specs()}
    x = checkpoint.rows("model.embed_tokens.weight", 1000, 4000).float()
    x = torch.nn.functional.rms_norm(
        x, x.shape[1:], checkpoint.tensor(specs["model.layers.0.input_layernorm.weight"]).float()
    )
    for name in ("q_proj", "v_proj"):
        weight = checkpoint.tensor(specs[f"model.layers.0.self_attn.{name}.weight"]).float()
        found = losses(weight, x)
        assert found["importance"] < found["rtn"] and found["gptq"] < 0.8 * found["rtn"]


def test_an_input_that_no_text_showed_does_no_harm():
    x = inputs(300, 64)
    x[:, 5:9] = 0
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(7))
    integers, scales = gptq_rows(weight, "int4_fullrange", GROUP, Curvature.of(hessian_of(x)))
    unseen = (whole(integers, scales) - weight)[:, 5:9]
    assert (unseen.abs() < 0.51 * scales.abs()[:, :1]).float().mean() > 0.8
    integers, scales = gptq_rows(weight, "int4_fullrange", GROUP, Curvature.of(torch.zeros(64, 64)))
    assert torch.isfinite(scales).all() and (whole(integers, scales) - weight).abs().max() < scales.abs().max()


# Through the recipe


def test_round_to_nearest_is_what_it_was(models):
    recipe = recipes.load(str(models("qwen2")))
    assert recipe.as_dict()["quantization"].keys() == {
        "weight_dtype",
        "group_size",
        "head",
        "compute_dtype",
        "keep_layers",
    }
    settings = manifests.content_settings(recipe.quantization)
    assert settings == {"weight_dtype": "int4_fullrange", "group_size": 32, "head": "int8"}
    named = recipes.load(
        str(models("qwen2")), ["quantization.algorithm", "rtn", "quantization.calibration_tokens", "1024"]
    )
    assert manifests.key_of(named.quantization, {"a": "b"}) == manifests.key_of(Quantization(), {"a": "b"})
    artifact, checkpoint = obtain(recipe).artifact, open_checkpoint(sources.local(models("qwen2")))
    for spec in checkpoint.specs():
        if spec.role == "linear":
            integers, scales = quantize_rows(checkpoint.tensor(spec).float(), "int4_fullrange", 32)
            matrix = artifact.matrix(spec.name.removesuffix(".weight"))
            assert torch.equal(matrix.integers().t(), integers) and torch.equal(matrix.scales.t(), scales.half())
    assert "calibration" not in artifact.manifest


def test_eight_bits_are_rounded_to_nearest_whatever_the_algorithm(models):
    found = [
        obtain(recipes.load(str(models("llama")), ["quantization.weight_dtype", "int8", *more])).artifact.folder
        for more in ([], ["quantization.algorithm", "gptq"])
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "glm4"])
def test_every_algorithm_makes_an_artifact_and_those_that_know_more_are_nearer_to_the_model(family, models, book):
    from itrex_chat.decoder.model import Chunk
    from itrex_chat.engines.native.weights import load_dense, load_quantized
    from itrex_chat.kernels import choose

    checkpoint = open_checkpoint(sources.local(models(family)))
    ids = load_tokenizer(models(family), checkpoint.family).encode(book.read_text("utf-8"))[40:200]

    def logits(decoder):
        cache = decoder.new_cache(len(ids))
        cache.begin([len(ids)])
        return decoder.read([Chunk(0, ids, len(ids))], cache)[0].clone()

    wanted = logits(load_dense(checkpoint, "fp32"))
    keys, errors = set(), {}
    for algorithm in ALGORITHMS:
        texts_wanted = ["quantization.calibration", f"[{book}]"] if algorithm in CALIBRATED else []
        texts_wanted += ["quantization.calibration_tokens", "2048", "quantization.iterations", "40"]
        recipe = recipes.load(str(models(family)), ["quantization.algorithm", algorithm, *texts_wanted])
        artifact = obtain(recipe).artifact
        artifact.verify()
        keys.add(artifact.manifest["key"])
        errors[algorithm] = float((logits(load_quantized(artifact, choose(), "fp32")) - wanted).square().mean())
        assert recipes.from_dict(artifact.manifest["recipe"]) == recipe
    assert len(keys) == len(ALGORITHMS)
    assert errors["gptq"] < errors["awq"] < errors["rtn"]
    assert errors["autoround"] < 0.8 * errors["rtn"]


def test_the_manifest_and_the_key_say_which_texts_were_read(tiny, book):
    artifact = gptq_of(tiny, book, "quantization.calibration_tokens", "1024")
    [told] = artifact.manifest["calibration"]
    assert told["name"] == "book.txt" and told["tokens"] == 1024
    assert told["sha256"] in artifact.manifest["content"]["calibration"]
    book.write_text(book.read_text("utf-8").replace("fox", "dog"), "utf-8")
    assert gptq_of(tiny, book, "quantization.calibration_tokens", "1024").folder != artifact.folder


@pytest.mark.parametrize(
    "settings", [{"algorithm": "autoround", "iterations": 7}, {"algorithm": "gptq"}, {"budget": 5.0}]
)
def test_what_makes_a_difference_to_four_bits_alone_is_not_in_the_key_of_eight(settings):
    eight = manifests.content_settings(Quantization(weight_dtype="int8"))
    assert manifests.content_settings(Quantization(weight_dtype="int8", **settings)) == eight
    assert manifests.content_settings(Quantization(**settings)) != manifests.content_settings(Quantization())


def test_a_quantization_that_was_interrupted_at_any_block_goes_on_to_the_same_bytes(tiny, book, tmp_path, monkeypatch):
    recipe = recipes.load(str(tiny), ["quantization.algorithm", "gptq", "quantization.calibration", f"[{book}]"])
    expected = bytes_of(obtain(recipe, tmp_path / "other").artifact)
    assert len(expected) == 6  # the embedding, four blocks, the head
    done = interrupt_each_block_once(monkeypatch)
    for _block in range(4):
        with pytest.raises(KeyboardInterrupt):
            obtain(recipe)
    artifact = obtain(recipe).artifact
    assert done == [0, 0, 1, 1, 2, 2, 3, 3]  # no block was made twice
    assert bytes_of(artifact) == expected
    assert not list(artifact.folder.glob("*.kept*")) and ArtifactStore().partial_folders() == []


def test_a_quantization_that_was_killed_goes_on_to_the_same_bytes(tiny, book, tmp_path):
    command = [sys.executable, "-m", "itrex_chat.quantize", "--model", str(tiny), "--calibration", str(book)]
    command += ["--set", "quantization.algorithm", "gptq"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not any(ArtifactStore().folder.glob("*.partial/inputs-*.kept")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    recipe = recipes.load(str(tiny), ["quantization.algorithm", "gptq", "quantization.calibration", f"[{book}]"])
    artifact = obtain(recipe).artifact
    artifact.verify()
    assert bytes_of(artifact) == bytes_of(obtain(recipe, tmp_path / "other").artifact)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (["quantization.algorithm", "gtpq"], "Did you mean gptq"),
        (["quantization.algorithm", "teq"], "quantization.algorithm cannot be 'teq'"),
        (["quantization.calibration", "[book.txt]"], "rtn reads no texts"),
        (["quantization.algorithm", "gptq", "quantization.calibration", "[1]"], "names of text files"),
        (["quantization.algorithm", "gptq", "quantization.calibration_tokens", "7"], "calibration_tokens cannot be 7"),
        (["quantization.algorithm", "gptq", "quantization.calibration_tokens", "10000000000"], "calibration_tokens"),
        (["quantization.algorithm", "autoround", "quantization.iterations", "0"], "iterations cannot be 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, sentence):
    with pytest.raises(RecipeError, match=sentence):
        recipes.load(recipes.EMBEDDED, settings)


def run_of(folder: Path, *answers: tuple[str, str, list[int]]) -> Path:
    """The folder of a run with these answers: variant, question, tokens."""
    folder.mkdir()
    lines = [
        {
            "id": name,
            "model": "tiny",
            "variant": variant,
            "text": f"{name}?",
            "prompt_token_ids": ids[:4],
            "token_ids": ids[4:],
        }
        for variant, name, ids in answers
    ]
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"id": "cut', "utf-8")
    return folder


def test_the_models_own_answers_are_calibrated_on_with_their_digest_and_not_measured_on(models, tmp_path):
    one, two = [n % 50 for n in range(700)], [n % 40 for n in range(300)]
    run = run_of(tmp_path / "run", ("fp32", "b", two), ("fp32", "a", one), ("int4", "a", [9] * 2000))
    settings = ["quantization.algorithm", "importance", "quantization.calibration", f"['answers:{run}']"]
    recipe = recipes.load(str(models("llama")), settings)
    found = texts.reading(recipe.quantization, lambda _text: pytest.fail("a tokenizer is not asked"))
    assert found.windows == [one[:512], one[512:], two]
    [told] = obtain(recipe).artifact.manifest["calibration"]
    assert (told["name"], told["tokens"]) == ("run", 1000)
    other = run_of(tmp_path / "other", ("fp32", "a", one), ("fp32", "b", two))
    assert texts.digests_of(recipe.quantization) == [told["sha256"]]
    assert texts.texts_of(Quantization(algorithm="gptq", calibration=(f"answers:{other}",)))[0].sha256 == told["sha256"]
    with pytest.raises(RunError, match="calibrated on the answer b"):
        measuring.measure(recipe, "fp32", ["int4"], [Passage("answers", "b", tuple(two), 4)])


@pytest.mark.parametrize("way", [("algorithm", "gptq"), ("budget", "5.0")])
def test_answers_of_a_model_with_a_larger_vocabulary_are_named(way, models, tmp_path):
    run = run_of(tmp_path / "the run", ("fp32", "a", [5] * 600 + [640]))
    settings = [f"quantization.{way[0]}", way[1], "quantization.calibration", f"['answers:{run}']"]
    with pytest.raises(CheckpointError, match="the run has the token 640, which a vocabulary of 640 does not have"):
        obtain(recipes.load(str(models("llama")), settings))


@pytest.mark.parametrize(
    "lines, sentence",
    [
        ('{"variant": "int4"}\n', "needs FP32 answers"),
        (
            '{"variant": "fp32", "id": "a", "model": "m", "text": "", "prompt_token_ids": [-1], "token_ids": []}\n',
            "damaged",
        ),
        ("[1]\n", "damaged"),
    ],
)
def test_a_run_without_answers_to_calibrate_on_is_named(lines, sentence, models, tmp_path):
    (tmp_path / "answers.jsonl").write_text(lines, "utf-8")
    with pytest.raises(RecipeError, match=sentence):
        obtain(
            recipes.load(
                str(models("llama")),
                ["quantization.algorithm", "gptq", "quantization.calibration", f"['answers:{tmp_path}']"],
            )
        )


@pytest.mark.parametrize(
    "content, sentence", [(None, "cannot be read"), (b"\xff\xfe\x00", "not a text in UTF-8"), (b"", "have 0 tokens")]
)
def test_texts_that_cannot_be_read_or_are_too_short_are_named(content, sentence, models, tmp_path):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=sentence):
        gptq_of(models("llama"), path)


def test_no_question_and_no_text_that_is_measured_on_is_in_our_calibration():
    own = "\n".join(text.text for text in texts.own_texts())
    assert 100_000 < len(own.encode()) < 400_000
    assert {text.name for text in texts.own_texts()} == {"chinese.txt", "code.txt", "english.txt"}
    for name in questions.names():
        for question in questions.load(name).questions:
            assert question.text.strip() not in own


def test_measuring_on_what_was_calibrated_on_is_refused(models, tmp_path):
    part = tmp_path / "part.txt"
    part.write_text(texts.own_texts()[0].text[:2000], "utf-8")
    recipe = recipes.load(str(models("llama")), ["quantization.algorithm", "gptq"])
    with pytest.raises(RunError, match="calibrated on"):
        measuring.measure(recipe, "fp32", ["int4"], [], [part])


def test_itrexs_classes_choose_the_algorithm(book):
    assert RtnConfig(mse_range=True).quantization.algorithm == "search"
    chosen = GPTQConfig(dataset=[str(book)], weight_dtype="int4_fullrange", nsamples=16).quantization
    assert (chosen.algorithm, chosen.calibration_tokens) == ("gptq", 16 * 512)
    assert chosen.calibration == (os.path.abspath(book),)
    assert AwqConfig(dataset=[str(book)]).quantization.calibration == chosen.calibration
    assert (AwqConfig().quantization.algorithm, AwqConfig().quantization.group_size) == ("awq", 32)
    learned = AutoRoundConfig(iters=50).quantization
    assert (learned.algorithm, learned.iterations, learned.group_size) == ("autoround", 50, 128)
    assert GPTQConfig().quantization.calibration_tokens == Quantization().calibration_tokens


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: AwqConfig(zero_point=True), "zero_point=True is not supported"),
        (lambda: AwqConfig(bits=8), "AwqConfig: bits cannot be 8"),
        (TeqConfig, "TeqConfig is not among"),
        (lambda: AutoRoundConfig(iters=0), "iters cannot be 0"),
        (lambda: AutoRoundConfig(lr=0.01), "lr=0.01 is not supported"),
        (lambda: GPTQConfig(bits=8), "bits cannot be 8"),
        (lambda: GPTQConfig(dataset="NeelNanda/pile-10k"), "list of text files"),
        (lambda: GPTQConfig(desc_act=True), "desc_act=True is not supported"),
        (lambda: GPTQConfig(sym=False), "sym=False is not supported"),
        (lambda: GPTQConfig(nsamples=0), "nsamples cannot be 0"),
    ],
)
def test_what_itrexs_classes_cannot_do_here_is_refused_by_name(make, sentence):
    with pytest.raises(RecipeError, match=sentence):
        make()
