"""What people rate answers by, with one to five stars."""

from itrex_chat.foundation.language import _

CRITERIA = ("understanding", "logic", "humour", "fluency")


def criterion_title(name: str) -> str:
    return {
        "understanding": _("language understanding"),
        "logic": _("logic"),
        "humour": _("humour"),
        "fluency": _("fluency"),
    }[name]
