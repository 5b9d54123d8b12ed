"""What calibration reads: texts of ours, or those that a user names, or the model's own answers, in windows of tokens.

Our texts were written for this program, or are its own documents and source code: no set of questions, and nothing that
anything is measured on.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from itrex_chat.calibration import answers
from itrex_chat.foundation import files
from itrex_chat.foundation.digests import sha256_of_json
from itrex_chat.foundation.errors import CheckpointError, RecipeError
from itrex_chat.foundation.language import _
from itrex_chat.settings.quantization import ANSWERS, Quantization

if TYPE_CHECKING:
    from itrex_chat.architecture.config import DecoderConfig

FOLDER = Path(__file__).parent / "texts"
WINDOW = 512  # tokens that are read together
LARGEST = 8 << 20  # bytes of a text


@dataclass(frozen=True)
class CalibrationText:
    """A text, or what a model was asked and answered, whose tokens are known: `conversations`."""

    name: str
    text: str
    sha256: str
    conversations: tuple[tuple[int, ...], ...] = ()


def texts_of(quantization: Quantization) -> tuple[CalibrationText, ...]:
    """The texts that a quantization is calibrated on, none where it needs none. Raises RecipeError."""
    if not quantization.reads_texts:
        return ()
    if not quantization.calibration:
        return own_texts()
    return tuple(map(_named, quantization.calibration))


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
    cut = sorted(
        ((text.sha256, _windows(text, encode, window)) for text in texts), key=lambda pair: (_size(pair[1]), pair[0])
    )
    for number, (name, there) in enumerate(cut):
        mean = max(1, _size(there) // max(1, len(there)))
        chosen = list(_spread(there, max(1, left // (len(cut) - number) // mean)))
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


def reading_for(config: "DecoderConfig", quantization: Quantization, encode: Callable[[str], list[int]]) -> Reading:
    """The same for a decoder, in windows that it takes. Raises CheckpointError for tokens that its vocabulary does not have."""
    found = reading(quantization, encode, min(WINDOW, config.context_length))
    if (largest := max(map(max, found.windows))) >= config.vocab_size:
        answered = (text.name for text in texts_of(quantization) if any(largest in ids for ids in text.conversations))
        raise CheckpointError(
            _(
                "{name} has the token {largest}, which a vocabulary of {count} does not have: it was made for another model.",
                name=next(answered, None) or _("The tokenizer"),
                largest=largest,
                count=config.vocab_size,
            )
        )
    return found


def _windows(text: CalibrationText, encode: Callable[[str], list[int]], window: int) -> list[list[int]]:
    """Whole windows of a text, or it alone where it is shorter than one; each conversation in its own."""
    if text.conversations:
        return [list(ids[at : at + window]) for ids in text.conversations for at in range(0, len(ids), window)]
    ids = encode(text.text)
    return [ids[at : at + window] for at in range(0, max(1, len(ids) // window) * window, window) if ids]


def _size(windows: list[list[int]]) -> int:
    return sum(map(len, windows))


def _spread(windows: list[list[int]], count: int) -> Iterator[list[int]]:
    """Up to so many of them, evenly spread."""
    for number in range(min(count, len(windows))):
        yield windows[number * len(windows) // min(count, len(windows))]


def _named(name: str) -> CalibrationText:
    if not name.startswith(ANSWERS):
        return _text(Path(name))
    folder = Path(name.removeprefix(ANSWERS))
    text, conversations = answers.of_run(folder)
    return CalibrationText(folder.name, text, sha256_of_json(conversations), tuple(map(tuple, conversations)))


def _text(path: Path) -> CalibrationText:
    try:
        content = files.bytes_of(path, RecipeError, LARGEST)
        return CalibrationText(path.name, content.decode("utf-8"), sha256(content).hexdigest())
    except UnicodeDecodeError:
        raise RecipeError(_("{text} is not a text in UTF-8; save it as one.", text=path)) from None
