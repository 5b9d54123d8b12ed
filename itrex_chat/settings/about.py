"""What a recipe tells of its model, to choose by before anything is downloaded; it changes nothing that is computed."""

from dataclasses import dataclass

from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.language import _

LARGEST = {"download": 100_000.0, "blocks": 10_000.0, "embedding": 1_000.0, "context": 1 << 30}


@dataclass(frozen=True)
class About:
    """Every field may be missing, which is "" or 0.

    `licence` of the weights, a name such as "apache-2.0"; `download` in GB; weights in billions, `blocks` those of the
    decoder blocks and `embedding` those of the embedding, as many as the output head has; `context` in tokens.
    """

    licence: str = ""
    download: float = 0.0
    blocks: float = 0.0
    embedding: float = 0.0
    context: int = 0

    def __post_init__(self) -> None:
        for name, largest in LARGEST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= largest:
                raise RecipeError(
                    _(
                        "about.{name} cannot be {value!r}: it is a number from 0 to {largest:,}.",
                        name=name,
                        value=value,
                        largest=largest,
                    )
                )
        if len(self.licence) > 100:
            raise RecipeError(_("about.licence is a name of at most 100 characters."))

    @property
    def quantized_bytes(self) -> float:
        """Bytes of the model in INT4 with groups of 32, the head in INT8, the embedding in 16 bits; 0 where it is not known."""
        return 1e9 * (self.blocks * 4.5 / 8 + self.embedding * (8.5 / 8 + 2))

    @property
    def bytes_per_token(self) -> float:
        """Bytes that INT4 reads for a token; 0 where it is not known."""
        return 1e9 * (self.blocks * 4.5 / 8 + self.embedding * 8.5 / 8)
