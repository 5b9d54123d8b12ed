"""The recipe's section `source`: where a model comes from."""

import re
from dataclasses import dataclass

from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.language import _

HUBS = ("modelscope", "huggingface")
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Package:
    """A file inside a Python package, used as data: name and version on the index, member and its SHA-256."""

    name: str = ""
    version: str = ""
    file: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        forms = {
            "name": r"[A-Za-z0-9][\w.-]*",
            "version": r"\d[\w.!+]*",
            "file": r"[\w.-][^\0]*",
            "sha256": r"[0-9a-f]{64}",
        }
        for field, form in forms.items():
            if any(vars(self).values()) and not re.fullmatch(form, getattr(self, field), re.ASCII):
                raise RecipeError(
                    _("source.package.{field} cannot be {value!r}.", field=field, value=getattr(self, field))
                )


@dataclass(frozen=True)
class SourceSpec:
    """Where a model comes from: a hub's repository, a package's file or a local path.

    An empty `revision` means the hub's default branch, as it is at the first
    download; the commit found then is recorded and used from then on.
    """

    hub: str = "modelscope"
    modelscope: str = ""
    huggingface: str = ""
    revision: str = ""
    path: str = ""
    package: Package = Package()

    @property
    def repository(self) -> str:
        """The repository on the hub; "" where none is named."""
        return self.modelscope if self.hub == "modelscope" else self.huggingface

    @property
    def on_other_hub(self) -> "SourceSpec | None":
        """The same model's default branch on the other hub, where a repository of that is named."""
        other = SourceSpec(HUBS[1 - HUBS.index(self.hub)], self.modelscope, self.huggingface)
        return other if other.repository else None
