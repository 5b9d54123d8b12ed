"""Shards: one run in parts, each by a process of its own, wherever that is.

The models of a run stand in a row, each as long as 1. Shard 2 of 8 is the second eighth of that row: some models whole, and of
those where it begins and ends some of the questions, with all of their variants. So few models are loaded, every question is in
one shard, and its variants are answered on one machine.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.language import _

T = TypeVar("T")
MOST = 100_000  # shards of a run


@dataclass(frozen=True)
class Shard:
    """The `number`th of `count` parts, from 1 on."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard that "2/8" names. Raises RecipeError."""
        number, slash, count = text.partition("/")
        known = slash and all(part.isascii() and part.isdigit() and len(part) < 7 for part in (number, count))
        if not known or not 1 <= int(number) <= int(count) <= MOST:
            raise RecipeError(
                _("{text!r} is no shard; write its number and how many there are, such as 2/8.", text=text)
            )
        return cls(int(number), int(count))

    def of_model(self, index: int, models: int, items: Sequence[T]) -> Sequence[T]:
        """Of the `items` (questions) of model `index` of so many `models`, those that belong to this shard, in their order."""
        return items[
            self._bound(self.number - 1, index, models, len(items)) : self._bound(
                self.number, index, models, len(items)
            )
        ]

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Those of all `items` that belong to this shard, in their order."""
        return self.of_model(0, 1, items)

    def has_model(self, index: int, models: int) -> bool:
        """Whether any part of a model, however small, belongs to this shard."""
        return index * self.count < self.number * models and (self.number - 1) * models < (index + 1) * self.count

    def _bound(self, shards: int, index: int, models: int, items: int) -> int:
        """How many of the items lie before the end of so many shards; in whole numbers, so that all compute the same."""
        return min(max((shards * models - index * self.count) * items // self.count, 0), items)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def add_option(parser: argparse.ArgumentParser, told: str) -> None:
    """`--shard`, for a command's parser; `told` says what the parts are of."""
    parser.add_argument("--shard", metavar="K/N", help=told)


def chosen(arguments: argparse.Namespace) -> Shard | None:
    """The shard that a user gave. Raises RecipeError."""
    return Shard.parse(arguments.shard) if arguments.shard is not None else None
