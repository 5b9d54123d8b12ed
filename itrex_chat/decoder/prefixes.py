"""Which tokens pages hold from the beginning of a sequence on, so that others that begin alike need not read them again."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from itrex_chat.decoder.pages import PAGE, NoPages, Pages


@dataclass(eq=False)
class _Node:
    """A page and the tokens that it is known to hold; only one without children may hold less than a page of them."""

    page: int
    ids: tuple[int, ...]
    parent: "_Node | None"
    whole: dict[tuple[int, ...], "_Node"] = field(default_factory=dict)
    partly: list["_Node"] = field(default_factory=list)

    def children(self) -> Iterator["_Node"]:
        yield from self.whole.values()
        yield from self.partly


class Prefixes:
    """Beginnings of sequences, as a tree of pages. It is a user of each of its pages, and gives up the least recently
    used ones when others want them.

    `kind`: keys of different kinds are told apart; those of Qwen's dynamic NTK depend on the prompt's length.
    """

    def __init__(self, pages: Pages):
        self._pages = pages
        self._roots: dict[float, _Node] = {}
        self._used: OrderedDict[_Node, None] = OrderedDict()  # the most recent last; a node behind all of its children

    def __len__(self) -> int:
        """Pages that it holds."""
        return len(self._used)

    def find(self, kind: float, ids: Sequence[int]) -> tuple[list[int], int]:
        """The pages of the longest known beginning of `ids`, and how many tokens of it that is. They may be given up
        with the next page that is taken, unless they are shared before that."""
        node, pages, found, path = self._roots.get(kind), list[int](), 0, list[_Node]()
        while node:
            following = node.whole.get(tuple(ids[found : found + PAGE]))
            if following is None:
                break
            node, found = following, found + PAGE
            pages.append(node.page)
            path.append(node)
        if node:
            rest = ids[found : found + PAGE]
            best = max(node.children(), key=lambda child: _alike(child.ids, rest), default=None)
            if best and (alike := _alike(best.ids, rest)):
                pages.append(best.page)
                path.append(best)
                found += alike
        self._touch(path)
        return pages, found

    def keep(self, kind: float, ids: Sequence[int], pages: Sequence[int]) -> None:
        """These pages hold the keys and values of `ids`; nobody writes to where those are any more."""
        node, path = self._roots.setdefault(kind, _Node(-1, (), None)), list[_Node]()
        for number in range(len(ids) // PAGE):
            part = tuple(ids[number * PAGE : (number + 1) * PAGE])
            following = node.whole.get(part)
            if following is None:
                following = node.whole[part] = self._node(pages[number], part, node)
            self._replace(node, part)
            path.append(node := following)
        rest = tuple(ids[len(ids) // PAGE * PAGE :])
        if rest and not any(_alike(child.ids, rest) == len(rest) for child in node.children()):
            self._replace(node, rest)
            node.partly.append(last := self._node(pages[len(ids) // PAGE], rest, node))
            path.append(last)
        self._touch(path)

    def give_up(self, count: int) -> None:
        """Have so many pages free, if that can be. Raises NoPages."""
        for node in list(self._used):
            if self._pages.free >= count:
                return
            if node in self._used and self._pages.users(node.page) == 1:
                self._drop(node)
        if self._pages.free < count:
            raise NoPages

    def idle(self) -> int:
        """How many pages nobody else uses."""
        return sum(self._pages.users(node.page) == 1 for node in self._used)

    def clear(self) -> None:
        """Give all pages back."""
        for root in self._roots.values():
            for child in list(root.children()):
                self._drop(child)
        self._roots = {}

    def _node(self, page: int, ids: tuple[int, ...], parent: _Node) -> _Node:
        self._pages.share(page)
        return _Node(page, ids, parent)

    def _replace(self, node: _Node, ids: tuple[int, ...]) -> None:
        """Drop what is known of a page that another one holds more of."""
        for child in list(node.partly):
            if len(child.ids) <= len(ids) and _alike(child.ids, ids) == len(child.ids):
                self._drop(child)

    def _touch(self, path: list[_Node]) -> None:
        for node in reversed(path):
            self._used[node] = None
            self._used.move_to_end(node)

    def _drop(self, node: _Node) -> None:
        """Forget a page, and those behind it, which nobody would find."""
        for child in list(node.children()):
            self._drop(child)
        assert node.parent is not None
        if node.parent.whole.get(node.ids) is node:
            del node.parent.whole[node.ids]
        elif node in node.parent.partly:
            node.parent.partly.remove(node)
        self._used.pop(node, None)
        self._pages.release(node.page)


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many of the first tokens are the same."""
    return next((at for at, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
