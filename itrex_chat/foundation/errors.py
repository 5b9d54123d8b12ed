"""What can go wrong for a user, each told in one or two sentences.

Every error that a user can cause or mend is an `ItrexChatError`; the command
line prints its sentence and exits non-zero. Any other exception is a bug.
"""

import re

LINE_ENDS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")
LONGEST = 1600  # characters of a sentence


class ItrexChatError(Exception):
    """Base of all errors that name what is wrong with which input and what to do next.

    A sentence is one line and not endless, whatever the names are that it quotes.
    """

    def __init__(self, sentence: object):
        told = LINE_ENDS.sub(" ", str(sentence))
        half = LONGEST // 2
        super().__init__(told if len(told) <= LONGEST else f"{told[:half]} … {told[-half:]}")


class RecipeError(ItrexChatError, ValueError):
    """A recipe, a setting or an option that cannot be meant."""


class QuestionSetError(ItrexChatError, ValueError):
    """A question set that cannot be read."""


class SourceError(ItrexChatError):
    """A model that cannot be found, reached or verified."""


class CheckpointError(ItrexChatError):
    """Weights or configuration that cannot be read or do not fit together."""


class TokenizerError(ItrexChatError):
    """A vocabulary or chat template that is missing or cannot be used."""


class TokenizerEnded(TokenizerError):
    """A tokenizer whose process somebody else has ended, again and again; later it may work."""


class ArtifactError(ItrexChatError):
    """A cached artifact that is missing, damaged or in use."""


class KernelError(ItrexChatError):
    """A kernel that cannot run on this machine or on these weights."""


class GenerationError(ItrexChatError, ValueError):
    """A prompt or setting that generation cannot work with."""


class Busy(GenerationError):
    """More requests than may wait; later there may be room."""


class RunError(ItrexChatError):
    """A run of questions that cannot start, go on or be read."""


class MemoryShortage(RunError):
    """A variant that does not fit into the memory that its machine has left."""


class EngineError(ItrexChatError):
    """An engine that is not installed, does not work or cannot take a model."""


class UnknownArchitecture(CheckpointError, EngineError):
    """A model whose architecture this program, or an engine, does not have."""
