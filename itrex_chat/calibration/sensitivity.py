"""What each matrix of the blocks would lose in each kind that it can be.

Some windows of tokens go through the blocks as they are. Each matrix has a branch: the same tokens, where this matrix alone was
rounded to the nearest of 4 bits. From its block on a branch goes through the others beside the rest, so that every block is read
once. What a branch loses is its KL divergence at the end, to second order: half of the variance, under the predictions, of what the
logits changed by. The other kinds of a matrix lose in proportion to the squared error of its outputs.
"""

from collections.abc import Mapping, Sequence

import torch
from tqdm import tqdm

from itrex_chat.architecture.layout import HEAD
from itrex_chat.calibration.driver import Floats
from itrex_chat.checkpoints import Checkpoint
from itrex_chat.decoder.block import Block
from itrex_chat.decoder.linear import DenseLinear
from itrex_chat.decoder.loading import block_linear_names, load_block
from itrex_chat.decoder.model import Decoder, Pass, rms_norm
from itrex_chat.quantization.budget import Kind
from itrex_chat.quantization.rtn import quantize_rows

WINDOW, WINDOWS = 128, 3
SLAB = 1 << 22  # values of the head that are read at a time


@torch.inference_mode()
def losses(
    checkpoint: Checkpoint, kinds: Mapping[str, Sequence[Kind]], windows: list[list[int]], bar: tqdm
) -> dict[str, list[float]]:
    """By module, what it adds to the mean KL divergence in each of its kinds, of which the first is of integers; `bar` counts
    blocks."""
    weights = Floats(checkpoint)
    config, lengths = weights.config, [len(window) for window in windows]
    x, branches, errors = weights.embedded(windows), dict[str, torch.Tensor](), dict[str, list[float]]()
    for number in range(config.layers):
        block = load_block(weights, number)
        decoder = Decoder.of_one(config, number, block)
        step = decoder.whole(lengths)
        for name, branch in branches.items():
            branches[name] = decoder.through(0, block, branch, step)
        for name, matrix, inputs in _matrices(weights, decoder, block, number, x, step):
            if name in kinds:
                before = matrix.clone()
                errors[name] = [_error(matrix, before, kind, inputs) for kind in kinds[name]]
                _error(matrix, before, kinds[name][0], inputs)
                branches[name] = decoder.through(0, block, x, step)
                matrix.copy_(before)
        x = decoder.through(0, block, x, step)
        bar.update()
    found = _divergences(checkpoint, weights, x, branches)
    return {
        name: [found[name] * error / errors[name][0] if errors[name][0] else 0.0 for error in errors[name]]
        for name in kinds
    }


def _matrices(weights: Floats, decoder: Decoder, block: Block, number: int, x: torch.Tensor, step: Pass):
    """Names, matrices as parts of the block's own, and their inputs."""
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


def _error(matrix: torch.Tensor, before: torch.Tensor, kind: Kind, inputs: torch.Tensor) -> float:
    """The squared error of a matrix's outputs in a kind, which `matrix` becomes."""
    if not kind.weight_dtype:
        return 0.0
    integers, scales = quantize_rows(before.clone(), kind.weight_dtype, kind.group_size)
    torch.mul(integers, scales.half().float().repeat_interleave(kind.group_size, 1), out=matrix)
    return float((inputs @ (matrix - before).t()).square_().sum())


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
