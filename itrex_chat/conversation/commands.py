"""What can be typed beside questions."""

from itrex_chat.foundation.choices import did_you_mean
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _

NAMES = ("system", "variant", "reset", "regenerate", "save", "load", "stats", "help", "quit")
WITHOUT_ARGUMENT = ("reset", "regenerate", "stats", "help", "quit")
FORCE = "--force"  # of /save


def parsed(line: str) -> tuple[str, str]:
    """The name and the rest of "/NAME REST"; no name for a question, which two slashes begin with one. Raises RunError."""
    text = line.strip()
    if not text.startswith("/"):
        return "", line
    if text.startswith("//"):
        return "", text[1:]
    name, *rest = text[1:].split(maxsplit=1)[:2] or [""]
    if name not in NAMES:
        raise RunError(
            _(
                "There is no command /{name}.{hint} /help lists them; // begins a question with a slash.",
                name=name,
                hint=did_you_mean(name, NAMES),
            )
        )
    if rest and name in WITHOUT_ARGUMENT:
        raise RunError(_("/{name} takes nothing behind it.", name=name))
    return name, rest[0].strip() if rest else ""


def told() -> str:
    """The help."""
    lines = [
        ("/system [TEXT]", _("what the model is told before the conversation; without a text: show it; - removes it")),
        ("/variant NAME[,NAME]", _("go on with another variant, or with several, one below the other")),
        ("/reset", _("begin a new conversation")),
        ("/regenerate", _("another answer to the last question")),
        (f"/save [{FORCE}] FILE", _("keep the conversation as JSON")),
        ("/load FILE", _("go on with a conversation that was kept")),
        ("/stats", _("speed, memory and context")),
        ("/quit", _("end, as Ctrl-D does")),
        ("Alt-Enter, \\ Enter", _("another line of the question")),
        ("Ctrl-C", _("stops an answer and keeps what came; at the prompt clears the line")),
    ]
    return "\n".join(f"  {left:22} {right}" for left, right in lines)
