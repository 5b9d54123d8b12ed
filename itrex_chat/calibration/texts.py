"""What calibration reads: texts of ours, or those that a user names, in windows of tokens.

Our texts were written for this program, or are its own documents and source code: no set of questions, and nothing that
anything is measured on.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from itrex_chat.foundation import files
from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.language import _
from itrex_chat.settings.quantization import Quantization

FOLDER = Path(__file__).parent / "texts"
WINDOW = 512  # tokens that are read together
LARGEST = 8 << 20  # bytes of a text


@dataclass(frozen=True)
class CalibrationText:
    name: str
    text: str
    sha256: str


def texts_of(quantization: Quantization) -> tuple[CalibrationText, ...]:
    """The texts that a quantization is calibrated on, none where it needs none. Raises RecipeError."""
    if not quantization.reads_texts:
        return ()
    if not quantization.calibration:
        return own_texts()
    return tuple(_text(Path(path)) for path in quantization.calibration)


@cache
def own_texts() -> tuple[CalibrationText, ...]:
    """The texts that come with the program, in Chinese, English and code."""
    return tuple(_text(path) for path in sorted(FOLDER.glob("*.txt")))


def digests_of(quantization: Quantization) -> list[str]:
    """The SHA-256 of each text that a quantization is calibrated on."""
    return [text.sha256 for text in texts_of(quantization)]


@dataclass(frozen=True)
class Reading:
    """Tokens in windows, and how many are of each text."""

    windows: list[list[int]]
    tokens: dict[str, int]


def reading(quantization: Quantization, encode: Callable[[str], list[int]], window: int = WINDOW) -> Reading:
    """What a quantization reads of its texts, in windows of so many tokens: `calibration_tokens` in all, or what there is.

    Of each text an equal part is read, spread over it, and more where others have less. Raises RecipeError where there are too
    few to calibrate on.
    """
    left, taken, found = quantization.calibration_tokens, dict[str, int](), list[list[int]]()
    texts = {text.sha256: text for text in texts_of(quantization)}.values()
    encoded = sorted(((text.sha256, encode(text.text)) for text in texts), key=lambda pair: (len(pair[1]), pair[0]))
    for number, (name, ids) in enumerate(encoded):
        chosen = list(_spread(ids, max(1, left // (len(encoded) - number) // window), window))
        taken[name] = sum(map(len, chosen))
        left -= taken[name]
        found += chosen
    if sum(taken.values()) < WINDOW:
        raise RecipeError(
            _(
                "The calibration texts have {count} tokens; {least} are the least that say anything.",
                count=sum(taken.values()),
                least=WINDOW,
            )
        )
    return Reading(found, taken)


def _spread(ids: list[int], count: int, window: int) -> Iterator[list[int]]:
    """Up to so many whole windows, evenly spread; a text that is shorter than one is a window of its own."""
    there = max(1, len(ids) // window)
    for number in range(min(count, there)):
        start = number * there // min(count, there) * window
        if part := ids[start : start + window]:
            yield part


def _text(path: Path) -> CalibrationText:
    try:
        content = files.bytes_of(path, RecipeError, LARGEST)
        return CalibrationText(path.name, content.decode("utf-8"), sha256(content).hexdigest())
    except UnicodeDecodeError:
        raise RecipeError(_("{text} is not a text in UTF-8; save it as one.", text=path)) from None
