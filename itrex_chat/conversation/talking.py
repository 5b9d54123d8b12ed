"""The conversation: what is typed is asked, or does what a command says."""

import dataclasses
from collections.abc import Callable

from itrex_chat.conversation import commands, turns
from itrex_chat.conversation.parting import Parting
from itrex_chat.conversation.screen import Screen, figures
from itrex_chat.conversation.stopping import Stop
from itrex_chat.conversation.turns import Conversation, Turn
from itrex_chat.conversation.voices import Voices, names_in
from itrex_chat.foundation.errors import GenerationError, ItrexChatError, RunError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import expanded
from itrex_chat.foundation.units import readable
from itrex_chat.generation.request import Request
from itrex_chat.generation.response import Response
from itrex_chat.generation.sequence import CANCELLED
from itrex_chat.settings.generation import GenerationConfig
from itrex_chat.settings.variant import titled

TEMPERATURE, TOP_P = 0.8, 0.95  # of another answer, where answers are greedy


class Talk:
    """`conversation` as it is, `voices` that answer, and the `screen` that shows it."""

    def __init__(self, conversation: Conversation, voices: Voices, screen: Screen):
        self.conversation, self.voices, self.screen = conversation, voices, screen
        self._answers = self._tokens = 0
        self._seconds, self._again = 0.0, 0
        self._used: dict[str, int] = {}  # tokens of the context by variant

    def go_on(self, read: Callable[[], str]) -> None:
        """Until `read` raises EOFError, or a command ends it. An error is told, and does not end it."""
        while True:
            try:
                line = read()
                if not line.strip():
                    continue
                if not self.line(line):
                    return
            except EOFError:
                return
            except KeyboardInterrupt:
                continue  # the line is given up, or what was loaded
            except ItrexChatError as error:
                self.screen.end()
                self.screen.say(f"itrex_chat: {error}")

    def line(self, line: str) -> bool:
        """Do what a line says; whether the conversation goes on. Raises ItrexChatError."""
        name, rest = commands.parsed(line)
        if name == "quit":
            return False
        if name:
            getattr(self, f"_{name}")(rest)
        else:
            self.ask(rest)
        return True

    def ask(self, question: str) -> bool:
        """Whether all answers are whole. Raises ItrexChatError; the question is not kept then, unless there is some of an
        answer."""
        self._again = 0
        self.conversation.turns.append(Turn(question))
        return self._answer(self.voices.recipe.generation)

    def _answer(self, config: GenerationConfig) -> bool:
        """Have the last question answered by all that answer, until one is stopped; whether none was."""
        turn, first = self.conversation.turns[-1], ""
        try:
            for name in self.voices.names:
                if len(self.voices.names) > 1:
                    self.screen.title(name)
                parting = Parting(turn.answers[first]) if first else None
                stopped = self._from(name, turn, config, parting)
                if stopped:
                    self.screen.fact(_("stopped; what came is kept") if turn.answers else _("stopped"))
                    return False
                if parting:
                    self.screen.parted(parting, name, first)
                first = first or name
            return True
        finally:
            if not turn.answers:
                self.conversation.turns.pop()

    def _from(self, name: str, turn: Turn, config: GenerationConfig, parting: Parting | None) -> bool:
        """Have a variant answer, show and keep that; whether it was stopped."""
        session, context = self.voices.session(name), self.voices.context(name)
        prompt = session.prompt(self.conversation.messages(name))
        if context and len(prompt) >= context:
            raise GenerationError(self._full(len(prompt), context))
        text, response, stop = "", None, Stop()
        try:
            with stop:
                answer = session.answer(Request(prompt, config), lambda: stop.asked)
                for piece in answer:
                    if isinstance(piece, Response):
                        response = None if piece.finish_reason == CANCELLED else piece
                        break
                    text += piece
                    self.screen.piece(piece, parting)
                    if stop.asked:
                        break
                answer.close()  # type: ignore[attr-defined]  # a generator: one that is not asked to the end is cancelled
        except KeyboardInterrupt:
            self.voices.drop(name)  # whatever it was at
            response = None
        finally:
            self.screen.end()
            if text:
                turn.answers[name] = text
        if response is None:
            return True
        turn.answers[name] = response.text
        self._told(name, response, context)
        return stop.asked

    def _told(self, name: str, response: Response, context: int | None) -> None:
        used = response.prompt_tokens + response.new_tokens
        self._answers, self._tokens = self._answers + 1, self._tokens + response.new_tokens
        self._seconds += (response.tpot or 0) * max(0, response.new_tokens - 1)
        self._used[name] = used
        self.screen.fact(figures(name, response, context))
        if response.finish_reason != "length":
            return
        if context and used >= context:
            self.screen.say(self._full(used, context))
        else:
            self.screen.fact(_("cut after {count} tokens; --max-new-tokens allows more", count=response.new_tokens))

    @staticmethod
    def _full(count: int, context: int) -> str:
        return _(
            "The conversation has {count} tokens, and the model takes {context} in all: it is full. /save FILE keeps it, "
            "/reset begins a new one.",
            count=count,
            context=context,
        )

    # Commands, by name.

    def _help(self, rest: str) -> None:
        self.screen.say(commands.told())

    def _system(self, rest: str) -> None:
        if rest:
            self.conversation.system = "" if rest == "-" else rest
        told = self.conversation.system or self.voices.recipe.chat.system
        self.screen.fact(_("system message: {text}", text=told) if told else _("There is no system message."))

    def _variant(self, rest: str) -> None:
        if rest:
            self.voices.choose(names_in(rest, "/variant"))
        self.screen.fact(_("{names} will answer", names=", ".join(map(titled, self.voices.names))))

    def _reset(self, rest: str) -> None:
        self.conversation.turns.clear()
        self._used.clear()
        self.screen.fact(_("a new conversation"))

    def _regenerate(self, rest: str) -> None:
        if not self.conversation.turns:
            raise RunError(_("There is no question to answer again."))
        config, turn = self.voices.recipe.generation, self.conversation.turns[-1]
        self._again += 1
        if not config.do_sample:
            config = dataclasses.replace(config, do_sample=True, temperature=TEMPERATURE, top_p=TOP_P)
        config = dataclasses.replace(config, seed=config.seed + self._again)
        self.screen.fact(
            _(
                "another answer: temperature {temperature}, seed {seed}",
                temperature=config.temperature,
                seed=config.seed,
            )
        )
        before, turn.answers = turn.answers, {}
        try:
            self._answer(config)
        finally:
            if not turn.answers:
                turn.answers = before
                self.conversation.turns.append(turn)

    def _save(self, rest: str) -> None:
        force = rest.partition(" ")[0] == commands.FORCE
        path = expanded(_named("save", rest.removeprefix(commands.FORCE).strip() if force else rest))
        turns.save(self.conversation, self.voices.recipe.name, path, force)
        self.screen.fact(
            _("{count} questions and answers are in {path}", count=len(self.conversation.turns), path=path)
        )

    def _load(self, rest: str) -> None:
        path = expanded(_named("load", rest))
        conversation, model = turns.load(path)
        self.conversation = conversation
        self._used.clear()
        self.screen.fact(
            _(
                "{count} questions and answers of {model} from {path}",
                count=len(conversation.turns),
                model=model,
                path=path,
            )
        )

    def _stats(self, rest: str) -> None:
        lines = [self.voices.recipe.name]
        for name in self.voices.names:
            facts, context = self.voices.session(name).facts, self.voices.context(name)
            line = _(
                "{kernel}, {threads} threads, loaded in {seconds:.1f} s, {memory}",
                kernel=facts.kernel,
                threads=facts.threads,
                seconds=facts.seconds,
                memory=readable(facts.memory),
            )
            used = _("context {used} of {all}", used=self._used.get(name, 0), all=context or "?")
            lines.append(f"{titled(name)} · {line} · {used}")
        lines.append(
            _(
                "{turns} questions in the conversation; {answers} answers with {tokens} tokens since the start",
                turns=len(self.conversation.turns),
                answers=self._answers,
                tokens=self._tokens,
            )
        )
        if self._seconds:
            lines[-1] += ", " + _("{rate:.1f} tok/s", rate=max(0, self._tokens - self._answers) / self._seconds)
        self.screen.say("\n".join(lines))


def _named(command: str, rest: str) -> str:
    if not rest:
        raise RunError(_("/{command} needs the name of a file.", command=command))
    return rest
