"""The base of all that clients may ask: what is not a field is refused by name."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from itrex_chat.server.errors import TOGETHER


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given


def wrong(field: str, reason: str) -> PydanticCustomError:
    """What a validator raises where fields do not go together; `errors.of_validation` finds the field's name in it."""
    return PydanticCustomError(TOGETHER, "{reason}", {"field": field, "reason": reason})
