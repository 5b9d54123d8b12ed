"""What each matrix of the blocks would lose in each kind that it can be.

Some windows of tokens go through the blocks as they are, and beside them branches: in one for each block its matrices are rounded
to the nearest of 4 bits, in one for each sort of matrix (all queries', all gates', …) those of all blocks. Every block is read
once. What a branch loses is its KL divergence at the end, to second order: half of the variance, under the predictions, of what the
logits changed by. A matrix's loss is between its block's and its sort's: what rounding it alone changes in its block's output,
scaled until the sums of blocks and sorts are what was found. Its other kinds lose in proportion to the squared error of its
outputs.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from itrex_chat.architecture.layout import HEAD
from itrex_chat.calibration import keeping
from itrex_chat.calibration.keeping import Branches
from itrex_chat.calibration.weights import Floats
from itrex_chat.checkpoints import Checkpoint
from itrex_chat.decoder.block import Block
from itrex_chat.decoder.linear import DenseLinear
from itrex_chat.decoder.loading import block_linear_names, load_block
from itrex_chat.decoder.model import Decoder, Pass, rms_norm
from itrex_chat.quantization import products
from itrex_chat.quantization.budget import Kind
from itrex_chat.quantization.rtn import quantize_rows

WINDOW, WINDOWS = 128, 3
SLAB = 1 << 22  # values of the head that are read at a time
ROUNDED = 1 << 21  # values that are rounded at a time
ROUNDS = 50  # of scaling


@torch.inference_mode()
@products.fast()
def losses(
    checkpoint: Checkpoint,
    kinds: Mapping[str, Sequence[Kind]],
    windows: list[list[int]],
    bar: tqdm,
    file: Path | None = None,
) -> dict[str, list[float]]:
    """By module, what it adds to the mean KL divergence in each of its kinds, of which the first is of integers; `bar` counts
    blocks. What is known after each block is kept in `file`, and gone on from."""
    weights = Floats(checkpoint)
    config, lengths = weights.config, [len(window) for window in windows]
    known = (file and keeping.read_branches(file)) or Branches(0, weights.embedded(windows), {}, {}, {}, {})
    x, blocks, sorts, errors, changes = known.x, known.blocks, known.sorts, known.errors, known.changes
    bar.update(known.number)
    for number in range(known.number, config.layers):
        block = load_block(weights, number)
        decoder = Decoder.of_one(config, number, block)
        step = decoder.whole(lengths)
        after = decoder.through(0, block, x, step)
        for name, branch in blocks.items():
            blocks[name] = decoder.through(0, block, branch, step)
        gone, rounded = set[str](), list[tuple[torch.Tensor, torch.Tensor]]()
        for name, matrix, inputs in _matrices(weights, decoder, block, number, x, step):
            if name in kinds:
                before, integers = matrix.clone(), _rounded(matrix, kinds[name][0])
                errors[name] = [_error(matrix, kind, inputs) for kind in kinds[name]]
                matrix.copy_(integers)
                changes[name] = float((decoder.through(0, block, x, step) - after).square_().sum())
                sorts[_sort(name)] = decoder.through(0, block, sorts.get(_sort(name), x), step)
                gone.add(_sort(name))
                matrix.copy_(before)
                rounded.append((matrix, integers))
        for name in sorts.keys() - gone:
            sorts[name] = decoder.through(0, block, sorts[name], step)
        for matrix, integers in rounded:
            matrix.copy_(integers)
        if rounded:
            blocks[str(number)] = decoder.through(0, block, x, step)
        x = after
        if file:
            keeping.write_branches(Branches(number + 1, x, blocks, sorts, errors, changes), file)
        bar.update()
    lost = _divergences(checkpoint, weights, x, blocks | sorts)
    each = _fitted(changes, {name: lost[name] for name in blocks}, {name: lost[name] for name in sorts})
    return {
        name: [each[name] * error / errors[name][0] if errors[name][0] else 0.0 for error in errors[name]]
        for name in kinds
    }


def _sort(name: str) -> str:
    """What sort of matrix a module's is: "q_proj"."""
    return name.rpartition(".")[2]


def _matrices(
    weights: Floats, decoder: Decoder, block: Block, number: int, x: torch.Tensor, step: Pass
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Names, matrices as parts of the block's own, and their inputs where no matrix is rounded."""
    config = weights.config
    qkv, output, gate_up, down = block_linear_names(config, number)
    normed = rms_norm(x, block.attention_norm, config.norm_eps)
    mixed = decoder.mixed(0, block, normed, step)
    y = block.output(mixed)
    if block.after_attention_norm is not None:
        y = rms_norm(y, block.after_attention_norm, config.norm_eps)
    between = rms_norm(x + y, block.mlp_norm, config.norm_eps)
    for names, linear, inputs in (
        (qkv, block.qkv, normed),
        (output, block.output, mixed),
        (gate_up, block.mlp.gate_up, between),
        (down, block.mlp.down, block.mlp.inner(between)),
    ):
        assert isinstance(linear, DenseLinear)
        parts = linear.weight.split([weights.rows(name) for name in names])
        yield from ((name, part, inputs) for name, part in zip(names, parts))


def _rounded(matrix: torch.Tensor, kind: Kind) -> torch.Tensor:
    """What a matrix, float32, is in a kind of integers; some rows at a time, for rounding takes many times their memory."""
    found = torch.empty_like(matrix)
    rows = max(1, ROUNDED // matrix.shape[1])
    for part, whole in zip(found.split(rows), matrix.split(rows)):
        integers, scales = quantize_rows(whole.clone(), kind.weight_dtype, kind.group_size)
        torch.mul(integers, scales.half().float().repeat_interleave(kind.group_size, 1), out=part)
    return found


def _error(matrix: torch.Tensor, kind: Kind, inputs: torch.Tensor) -> float:
    """The squared error of a matrix's outputs in a kind."""
    if not kind.weight_dtype:
        return 0.0
    return float((inputs @ _rounded(matrix, kind).sub_(matrix).t()).square_().sum())


def _fitted(changes: Mapping[str, float], blocks: Mapping[str, float], sorts: Mapping[str, float]) -> dict[str, float]:
    """The loss of each matrix: `changes` scaled by rows and columns until their sums are those of `blocks` and, but for one factor,
    of `sorts`. Where interactions make the two sums differ, the blocks' is the one that counts."""
    rows, columns = list(blocks), list(sorts)
    places = {name: (rows.index(name.split(".")[2]), columns.index(_sort(name))) for name in changes}
    table = torch.zeros(len(rows), len(columns), dtype=torch.float64)
    for name, place in places.items():
        table[place] = changes[name]
    whole = torch.tensor(list(blocks.values()), dtype=torch.float64)
    shares = torch.tensor(list(sorts.values()), dtype=torch.float64)
    shares *= whole.sum() / shares.sum().clamp(min=1e-300)
    for _time in range(ROUNDS):
        table *= (shares / table.sum(0).clamp(min=1e-300))[None]
        table *= (whole / table.sum(1).clamp(min=1e-300))[:, None]
    return {name: float(table[place]) for name, place in places.items()}


def _divergences(
    checkpoint: Checkpoint, weights: Floats, x: torch.Tensor, branches: dict[str, torch.Tensor]
) -> dict[str, float]:
    """The mean KL divergence of each branch, to second order."""
    norm, eps = weights.vector("model.norm.weight"), weights.config.norm_eps
    base = rms_norm(x, norm, eps)
    changes = {name: rms_norm(branch, norm, eps) - base for name, branch in branches.items()}
    [head] = [spec for spec in checkpoint.specs() if spec.name == HEAD]
    total = torch.full((len(x),), -torch.inf)
    for _start, _stop, values in checkpoint.slabs(head, SLAB):
        total = torch.logaddexp(total, (base @ values.float().t()).logsumexp(1))
    means = {name: torch.zeros(len(x)) for name in changes}
    squares = {name: torch.zeros(len(x)) for name in changes}
    for _start, _stop, values in checkpoint.slabs(head, SLAB):
        part = values.float().t()
        likely = torch.exp(base @ part - total[:, None])
        for name, change in changes.items():
            moved = change @ part
            weighted = likely * moved
            means[name] += weighted.sum(1)
            squares[name] += weighted.mul_(moved).sum(1)
    return {name: float((squares[name] - means[name].square()).clamp(min=0).mean() / 2) for name in changes}
