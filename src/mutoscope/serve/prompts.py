"""What worlds are told in words: which prompts a page offers, and how a text becomes what a world hears."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mutoscope.core.errors import ConfigError


@dataclass(frozen=True)
class PromptBook:
    """`embed` turns a text into what a source takes; `known` are offered, the first is said at the beginning.

    `free`: any text may be said. Without an encoder only what was embedded beforehand can be, and that is `known`.
    """

    embed: Callable[[str], Any]
    known: tuple[str, ...]
    free: bool

    def __post_init__(self) -> None:
        if not self.known:
            raise ConfigError("a world that is told in words what to show needs a prompt to begin with, and none is known")

    def can_say(self, text: str) -> bool:
        """Whether there is an embedding for it, or a way to make one."""
        return self.free or text in self.known

    def check(self, text: str) -> None:
        """Refuse what cannot be said."""
        if not self.can_say(text):
            raise ConfigError(f"no embedding of {text[:80]!r} is at hand; known: {'; '.join(self.known[:8])}")

    def describe(self) -> dict:
        """As plain data, for the page."""
        return {"known": list(self.known), "free": self.free}


Books = tuple[PromptBook | None, ...]
"""The book of every pane of a page; None where a world is not told in words."""


def first_prompt(books: Books, wanted: str | None) -> str | None:
    """What a page begins with: what it wants, if that can be said, else what its first pane begins with; None where nobody listens."""
    speaking = [book for book in books if book is not None]
    if wanted is not None and speaking and all(book.can_say(wanted) for book in speaking):
        return wanted
    return speaking[0].known[0] if speaking else None


def embed_for(books: Books, text: str) -> tuple[Any, ...]:
    """What every pane hears of a text, None where it does not listen. What cannot be said to one is said to none."""
    for book in books:
        if book is not None:
            book.check(text)
    return tuple(None if book is None else book.embed(text) for book in books)
