"""A budget of bits: what a matrix costs, what is chosen, and that artifacts say so."""

import itertools

import pytest
import tiny_models
import torch
from interrupted_blocks import interrupt_each_block_once
from tqdm import tqdm

from itrex_chat import sources
from itrex_chat.artifacts import manifest as manifests
from itrex_chat.artifacts.obtaining import obtain
from itrex_chat.calibration import budgeting, sensitivity
from itrex_chat.calibration.sensitivity import losses
from itrex_chat.calibration.weights import Floats
from itrex_chat.checkpoints import open_checkpoint
from itrex_chat.decoder.loading import load_decoder
from itrex_chat.decoder.model import Chunk
from itrex_chat.engines.itrex import saved
from itrex_chat.engines.native.engine import ENGINE
from itrex_chat.engines.native.weights import load_quantized
from itrex_chat.foundation.errors import ArtifactError, EngineError, RecipeError
from itrex_chat.kernels import choose
from itrex_chat.quantization.budget import Candidate, Kind, bits_per_weight, chosen, kinds_of
from itrex_chat.quantization.plan import module_of
from itrex_chat.quantization.rtn import quantize_rows
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.quantization import Quantization

FOUR, EIGHT, WHOLE = Kind("int4_fullrange", 128, 4.125), Kind("int8", 128, 8.125), Kind("", 0, 16.0)
FINE = Kind("int4_fullrange", 32, 4.5)


@pytest.fixture
def model(tmp_path):
    return tiny_models.standard(tmp_path / "model", "qwen2", num_hidden_layers=3)


@pytest.fixture
def book(tmp_path):
    file = tmp_path / "book.txt"
    file.write_text("今天天气很好。The quick brown fox is lazy. def f(x): return x ** 2\n" * 150, "utf-8")
    return file


def spend(model, book, budget: float, *settings: str):
    texts = ["quantization.calibration", f"[{book}]", "quantization.calibration_tokens", "1024"]
    return recipes.load(str(model), ["quantization.budget", str(budget), *texts, *settings])


# What is chosen


def candidates(seed: int) -> list[Candidate]:
    made = torch.Generator().manual_seed(seed)
    costs = torch.rand(5, generator=made).pow(4).tolist()
    sizes = torch.randint(3, 6, (5,), generator=made).tolist()
    shares = (1.0, 0.6, 0.005, 0.0)
    return [
        Candidate(str(number), 1000 * size, (FOUR, FINE, EIGHT, WHOLE), [cost * share for share in shares])
        for number, (cost, size) in enumerate(zip(costs, sizes))
    ]


def lost(parts: list[Candidate], kinds: dict[str, Kind]) -> float:
    return sum(each.losses[each.kinds.index(kinds[each.name])] for each in parts)


def test_what_is_chosen_keeps_the_budget_and_loses_hardly_more_than_the_best_choice():
    for budget in (4.125, 4.3, 4.5, 5.0, 7.0, 8.125, 16.0):
        total, least = 0.0, 0.0
        for seed in range(10):
            parts = candidates(seed)
            sizes = {each.name: each.size for each in parts}
            found = chosen(parts, [], budget)
            assert bits_per_weight(found, sizes) <= budget + 1e-6
            every = (
                dict(zip(sizes, kinds)) for kinds in itertools.product((FOUR, FINE, EIGHT, WHOLE), repeat=len(parts))
            )
            least += min(lost(parts, kinds) for kinds in every if bits_per_weight(kinds, sizes) <= budget + 1e-6)
            total += lost(parts, found)
        assert total <= 1.25 * least


def test_what_is_kept_counts_and_too_small_a_budget_says_how_small_it_may_be():
    parts = [Candidate("a", 1000, (FOUR, EIGHT), [1.0, 0.0])]
    assert chosen(parts, [(1000, 16.0)], 10.1) == {"a": FOUR}
    assert chosen(parts, [(1000, 16.0)], 12.1) == {"a": EIGHT}
    with pytest.raises(RecipeError, match=r"less than the 10\.062 bits"):
        chosen(parts, [(1000, 16.0)], 10)


# What a matrix costs


def test_costs_add_up_to_the_divergence_with_a_block_rounded_and_go_by_sorts_of_matrices(model):
    checkpoint = open_checkpoint(sources.local(model))
    made = torch.Generator().manual_seed(0)
    windows = torch.randint(0, checkpoint.decoder.vocab_size, (2, 24), generator=made).tolist()
    specs = {module_of(spec): spec for spec in checkpoint.specs() if spec.role == "linear"}
    kinds = {name: kinds_of(spec, torch.float32, "int4_fullrange") for name, spec in specs.items()}
    found = losses(checkpoint, kinds, windows, tqdm(disable=True))
    decoder = load_decoder(Floats(checkpoint))

    def log_probabilities() -> torch.Tensor:
        cache = decoder.new_cache(24, len(windows))
        cache.begin([24] * len(windows))
        logits = decoder.read([Chunk(row, ids, 24) for row, ids in enumerate(windows)], cache)
        return torch.cat([part.clone() for part in logits]).double().log_softmax(-1)

    def divergence(matrices: list[torch.Tensor]) -> float:
        """With these matrices rounded."""
        before = [matrix.clone() for matrix in matrices]
        for matrix in matrices:
            integers, scales = quantize_rows(matrix.clone(), "int4_fullrange", 32)
            matrix.copy_(integers * scales.half().float().repeat_interleave(32, 1))
        other = log_probabilities()
        for matrix, whole in zip(matrices, before):
            matrix.copy_(whole)
        return float((base.exp() * (base - other)).sum(-1).mean())

    base = log_probabilities()
    for number, block in enumerate(decoder.blocks):
        cost = divergence([linear.weight for linear in block.linears()])
        told = sum(each[0] for name, each in found.items() if name.startswith(f"model.layers.{number}."))
        assert told == pytest.approx(cost, rel=0.1)
    downs = divergence([block.mlp.down.weight for block in decoder.blocks])
    outputs = divergence([block.output.weight for block in decoder.blocks])
    told_downs, told_outputs = (
        sum(each[0] for name, each in found.items() if name.endswith(end)) for end in ("down_proj", "o_proj")
    )
    assert told_downs / told_outputs == pytest.approx(downs / outputs, rel=0.1)
    for name, each in found.items():
        assert each[-2] < each[0] / 20 and each[-1] == 0 and [kind.weight_dtype for kind in kinds[name]][-2] == "int8"


# Through the recipe


@pytest.mark.parametrize("algorithm", ["rtn", "gptq"])
def test_an_artifact_keeps_its_budget_and_is_nearer_to_the_model_than_one_of_as_many_bits(algorithm, model, book):
    recipe = spend(model, book, 5.0, "quantization.algorithm", algorithm)
    artifact = obtain(recipe).artifact
    artifact.verify()
    told = artifact.manifest["budget"]
    assert told["bits"] == 5.0 and 4.5 < told["reached"] <= 5.0 and told["expected"] < told["uniform"]
    kinds = {tuple(kind) for name, kind in artifact.manifest["matrices"].items() if name != "lm_head"}
    assert len(kinds) > 1 and {bits for bits, _group in kinds} == {4, 8}
    assert artifact.manifest["content"]["budget"] == 5.0 and "5bits" in artifact.folder.name
    assert artifact.manifest["calibration"][0]["name"] == "book.txt"
    assert recipes.from_dict(artifact.manifest["recipe"]) == recipe
    assert load_quantized(artifact, choose(), "int8").weight_bytes() > 0
    said = ENGINE.quantize(recipe)
    assert "The budget of 5 bits per weight of the blocks was spent to" in said and "  v_proj: " in said


def test_a_manifest_whose_budget_is_damaged_is_refused(model, book):
    artifact = obtain(spend(model, book, 5.0)).artifact
    manifests.write(artifact.folder, artifact.manifest | {"budget": {"bits": "many"}})
    with pytest.raises(ArtifactError, match="is damaged"):
        manifests.read(artifact.folder)


def test_what_matrices_cost_is_measured_once_for_a_model(model, book, monkeypatch):
    obtain(spend(model, book, 5.0))
    monkeypatch.setattr(budgeting, "losses", None)  # to be called no more
    other = obtain(spend(model, book, 4.6, "quantization.algorithm", "search")).artifact
    assert other.manifest["budget"]["reached"] <= 4.6


def test_what_was_measured_and_is_damaged_is_measured_again(model, book):
    first = obtain(spend(model, book, 5.0)).artifact
    [file] = (first.folder.parent / ".sensitivity").iterdir()
    for damage in ("{", file.read_text("utf-8").replace("[", '["a", ', 1)):
        file.write_text(damage, "utf-8")
        assert obtain(spend(model, book, 4.9)).artifact.manifest["budget"]["uniform"] == pytest.approx(
            first.manifest["budget"]["uniform"], rel=1e-3
        )
        file.unlink()
        for folder in first.folder.parent.glob("*-4.9bits-*"):
            for part in folder.iterdir():
                part.unlink()
            folder.rmdir()


def test_finding_what_matrices_cost_goes_on_behind_each_block_to_the_same_costs(model, book, tmp_path, monkeypatch):
    whole = obtain(spend(model, book, 5.0), tmp_path / "other").artifact
    begun, original = list[int](), sensitivity.load_block

    def interrupted(weights, number):
        begun.append(number)
        if begun.count(number) == 1:
            raise KeyboardInterrupt
        return original(weights, number)

    monkeypatch.setattr(sensitivity, "load_block", interrupted)
    for _block in range(3):
        with pytest.raises(KeyboardInterrupt):
            obtain(spend(model, book, 5.0))
    artifact = obtain(spend(model, book, 5.0)).artifact
    assert begun == [0, 0, 1, 1, 2, 2]
    [file] = (artifact.folder.parent / ".sensitivity").iterdir()
    assert file.read_bytes() == (whole.folder.parent / ".sensitivity" / file.name).read_bytes()


def test_a_quantization_with_a_budget_that_was_interrupted_goes_on_to_the_same_bytes(
    model, book, tmp_path, monkeypatch
):
    recipe = spend(model, book, 5.5, "quantization.algorithm", "gptq")
    whole = obtain(recipe, tmp_path / "other").artifact
    done = interrupt_each_block_once(monkeypatch)
    artifact = None
    while artifact is None:
        try:
            artifact = obtain(recipe).artifact
        except KeyboardInterrupt:
            assert len(done) < 20
    assert {path.name: path.read_bytes() for path in artifact.folder.glob("*.safetensors")} == {
        path.name: path.read_bytes() for path in whole.folder.glob("*.safetensors")
    }


def test_no_budget_changes_no_key_and_eight_bits_have_none(model):
    assert "budget" not in recipes.load(str(model)).as_dict()["quantization"]
    assert manifests.key_of(Quantization("int8", budget=9.0), {}) == manifests.key_of(Quantization("int8"), {})
    assert manifests.key_of(Quantization(budget=4.6), {}) != manifests.key_of(Quantization(), {})


def test_itrex_which_has_no_budget_says_so(model):
    with pytest.raises(EngineError, match="knows no quantization.budget"):
        saved.obtain(recipes.load(str(model), ["quantization.budget", "4.6"]))


@pytest.mark.parametrize("value", [".nan", ".inf", "4", "-5", "17", "1e400", "0.0001"])
def test_a_budget_that_none_can_be_is_refused(value):
    with pytest.raises(RecipeError, match="quantization.budget cannot be"):
        recipes.load(recipes.EMBEDDED, ["quantization.budget", value])


def test_a_budget_that_is_no_number_or_too_small_for_what_is_kept_is_refused(model, book):
    with pytest.raises(RecipeError, match="budget must be"):
        recipes.load(recipes.EMBEDDED, ["quantization.budget", "much"])
    with pytest.raises(RecipeError, match="less than the .* bits per weight that this model's blocks take"):
        obtain(spend(model, book, 4.6, "quantization.keep_layers", "[0]"))
