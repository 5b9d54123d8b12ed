"""A tokenizer in a process of its own, with bounds.

What comes with a model is a program in all but name: a template can loop, a normalizer can make a thousand letters of
each, a pattern can try for years, and the libraries that read them crash. So all of it, reading included, happens in a
process that the system ends when it takes too much processor time or memory, and whose replies have a greatest length.
"""

import contextlib
import dataclasses
import json
import signal
import subprocess
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from itrex_chat.chat.frames import REPLY, REQUEST
from itrex_chat.chat.messages import Message
from itrex_chat.foundation import death, machine, processes
from itrex_chat.foundation.errors import TokenizerEnded, TokenizerError
from itrex_chat.foundation.language import _, spoken_language
from itrex_chat.foundation.units import readable
from itrex_chat.settings.recipe import Chat

PROCESS = "itrex_chat.chat.served"

# For any request, and besides for each million bytes of it (seconds) or each byte. Real vocabularies are read in 0.5 s, from
# GGUF files in 5; 8 MB of text take 8 s and 1.3 GB.
SECONDS, SECONDS_OF_TEXT = 20, 5  # of processor time
MEMORY, MEMORY_OF_TEXT = 1 << 30, 300  # bytes
# The greatest replies, in bytes of JSON.
DESCRIPTION, VOCABULARY = 1 << 20, 128 << 20
PROMPT, PROMPT_OF_TEXT = 1 << 20, 32  # what a template writes by itself; four tokens for each byte of a request
TEXT_OF_TOKEN = 4096
TRIES = 3  # of one request, where somebody else ends the process; bounds end it by other signals


class ConfinedTokenizer:
    """The ChatTokenizer of a model. Every method raises TokenizerError, also where a bound is reached.

    The process ends when this object goes or is closed; the next request starts another one. What was asked of a process
    that somebody else has ended is asked of another one.
    """

    def __init__(self, folder: Path, family: str, chat: Chat, gguf: Path | None):
        self._place = gguf or folder
        self._model = {
            "folder": str(folder),
            "family": family,
            "chat": dataclasses.asdict(chat),
            "gguf": str(gguf) if gguf else None,
        }
        self._asking = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        described = _tried(self._started)
        self.stop_ids: frozenset[int] = frozenset(described["stop_ids"])
        self.strips_newline: bool = described["strips_newline"]
        self.call_format: str = described["call_format"]

    def encode(self, text: str) -> list[int]:
        return self._asked("encode", PROMPT, PROMPT_OF_TEXT, text=text)

    def decode(self, ids: list[int]) -> str:
        return self._asked("decode", TEXT_OF_TOKEN * (len(ids) + 1), ids=ids)

    def token_bytes(self, ids: list[int]) -> list[bytes]:
        pieces = self._asked("token_bytes", TEXT_OF_TOKEN * (len(ids) + 1), ids=ids)
        return [piece.encode("latin-1") for piece in pieces]

    def control_ids(self) -> list[int]:
        return self._asked("control_ids", VOCABULARY)

    def prompt(self, messages: list[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        if not self.call_format and (tools or any(message.calls or message.role == "tool" for message in messages)):
            raise TokenizerError(_("This model has no way to call functions."))
        plain = [dataclasses.asdict(message) for message in messages]
        return self._asked("prompt", PROMPT, PROMPT_OF_TEXT, messages=plain, tools=list(tools))

    def files(self) -> dict[str, bytes]:
        return {name: text.encode("latin-1") for name, text in self._asked("files", VOCABULARY).items()}

    def peak_memory(self) -> int:
        """The most memory that the process has had, in bytes."""
        return machine.peak_memory(self._process.pid) if self._process else 0

    def close(self) -> None:
        with self._asking:
            if self._process:
                self._end()

    def _asked(self, task: str, most: int, most_of_text: int = 0, **given: Any) -> Any:
        with self._asking:
            return _tried(lambda: self._with_process(task, most, most_of_text, given))

    def _with_process(self, task: str, most: int, most_of_text: int, given: dict) -> Any:
        if self._process is None:
            self._started()
        return self._value(task, most, most_of_text, given)

    def _started(self) -> dict:
        """Start the process and have it read the tokenizer; what it says of it."""
        self._process = subprocess.Popen(
            processes.command(PROCESS),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=processes.environment(TOKENIZERS_PARALLELISM="false", ITREX_CHAT_LANG=spoken_language()),
            start_new_session=True,  # an interrupt is ours to handle
        )
        self._ending = weakref.finalize(self, _end, self._process)
        return self._value("load", DESCRIPTION, 0, self._model)

    def _value(self, task: str, most: int, most_of_text: int, given: dict) -> Any:
        """What the process makes of a task: at most `most` bytes, and `most_of_text` for each byte of the request."""
        request = json.dumps({"task": task, **given}, separators=(",", ":")).encode()
        size = len(request)
        seconds, memory = SECONDS + SECONDS_OF_TEXT * size // 1_000_000, MEMORY + MEMORY_OF_TEXT * size
        try:
            reply = self._reply(REQUEST.pack(size, seconds, memory) + request, most + most_of_text * size)
        except EOFError:
            code = self._end()
            if code in (-signal.SIGKILL, -signal.SIGTERM):
                raise TokenizerEnded(
                    _(
                        "The process of the tokenizer of {place} was killed, perhaps because the memory ran out; try again "
                        "later.",
                        place=self._place,
                    )
                ) from None
            raise self._unusable(_how_it_ended(code, seconds, memory)) from None
        except OverflowError:
            self._end()
            raise self._unusable(_("it makes far more of a text than any real one does")) from None
        except BaseException:  # an interrupt: the reply would be taken for the next request's
            self._end()
            raise
        if "refused" in reply:
            raise TokenizerError(reply["refused"])
        if "failed" in reply:
            raise self._unusable(reply["failed"])
        return reply["value"]

    def _reply(self, request: bytes, largest: int) -> dict:
        """Raises EOFError where the process has ended, OverflowError for a reply of more than `largest` bytes."""
        assert self._process and self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # the reply that does not come tells
            self._process.stdin.write(request)
            self._process.stdin.flush()
        head = self._process.stdout.read(REPLY.size)
        if len(head) < REPLY.size:
            raise EOFError
        [length] = REPLY.unpack(head)
        if length > largest:
            raise OverflowError
        if len(content := self._process.stdout.read(length)) < length:
            raise EOFError
        return json.loads(content)

    def _end(self) -> int:
        """End the process; its exit code."""
        self._process = None
        return self._ending() or 0

    def _unusable(self, reason: str) -> TokenizerError:
        return TokenizerError(
            _(
                "The tokenizer or chat template of {place} cannot be used: {reason}. Take the files that the model's "
                "authors publish.",
                place=self._place,
                reason=reason,
            )
        )


def _tried(ask: Callable[[], Any]) -> Any:
    for _try in range(TRIES - 1):
        with contextlib.suppress(TokenizerEnded):
            return ask()
    return ask()


def _end(process: "subprocess.Popen[bytes]") -> int:
    process.kill()
    code = process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # of a request that it did not read
            if pipe:
                pipe.close()
    return code


def _how_it_ended(code: int, seconds: int, memory: int) -> str:
    if code == -signal.SIGXCPU:
        return _("it takes more than {seconds} seconds of processor time", seconds=seconds)
    if code == -signal.SIGABRT:
        return _("it takes more than {size} of memory, or crashes", size=readable(memory))
    return death.how(code)
