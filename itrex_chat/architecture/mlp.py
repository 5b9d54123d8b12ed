"""What a family's MLP is: the tensors it has and what they compute (`decoder/mlp.py` computes it).

Another kind, such as a mixture of experts, is another class with the same methods, and a class in `decoder/mlp.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from itrex_chat.architecture import bounds

ACTIVATIONS = ("silu",)


@dataclass(frozen=True)
class GatedMlpConfig:
    """down(activation(gate(x)) · up(x)), as in GLU variants (arXiv:2002.05202).

    `inner` is the width between; `bias` says whether its matrices have one, `fused` whether gate and up are stored as
    one matrix, the gate first.
    """

    inner: int
    activation: str = "silu"
    bias: bool = False
    fused: bool = False

    def __post_init__(self) -> None:
        """Raise CheckpointError for a value that cannot be."""
        bounds.whole("intermediate_size", self.inner)
        bounds.one_of("activation", self.activation, ACTIVATIONS)
        bounds.flags(self, ("bias", "fused"))

    def gate_up_modules(self) -> list[str]:
        """The modules whose outputs, side by side, are the gate and up."""
        return ["mlp.gate_up_proj"] if self.fused else ["mlp.gate_proj", "mlp.up_proj"]

    def matrices(self, hidden: int) -> Iterator[tuple[str, int, int]]:
        """Module, rows and columns of each matrix in the order of use, for a model of width `hidden`."""
        if self.fused:
            yield "mlp.gate_up_proj", 2 * self.inner, hidden
        else:
            yield "mlp.gate_proj", self.inner, hidden
            yield "mlp.up_proj", self.inner, hidden
        yield "mlp.down_proj", hidden, self.inner

    def activation_values(self) -> int:
        """Values that lie in memory for each token while it computes."""
        return 3 * self.inner

    def largest_product(self, hidden: int) -> int:
        """Values of its largest matrix as it is multiplied: gate and up are one."""
        return 2 * self.inner * hidden
