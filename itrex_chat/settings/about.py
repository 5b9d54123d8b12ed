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

    def weight_bytes(self, bits: int | None) -> float:
        """Bytes of the model's weights; 0 where that is not known.

        Of 4 or 8 bits in groups of 32, with the head in INT8 and the embedding in 16 bits; None: as they are published.
        """
        if bits is None:
            return max(1e9 * self.download, self.bytes_per_token(None))  # a download of fewer bits is widened
        return self.bytes_per_token(bits) + 2e9 * self.embedding

    def bytes_per_token(self, bits: int | None) -> float:
        """Bytes of weights that are read for a token; 0 where that is not known. Published ones are taken to have 16 bits."""
        if bits is None:
            return 2e9 * (self.blocks + self.embedding)
        return 1e9 * (self.blocks * (bits + 0.5) + self.embedding * 8.5) / 8
