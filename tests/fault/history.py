"""What was asked, what was acknowledged, and so which states of a document are allowed.

An operation that was not acknowledged may have been done or not. An acknowledged one was done, and
nothing older may come back after it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Document:
    """Texts; None stands for "deleted" or "never written". possible: with what was acknowledged
    last, and everything sent since.
    """

    possible: list[str | None] = field(default_factory=lambda: [None])
    texts: set[str] = field(default_factory=set)


class History:
    """Of all documents. Writers own disjoint ids, so operations on one id come one by one."""

    def __init__(self) -> None:
        self._documents: dict[str, _Document] = {}
        self._lock = threading.Lock()
        self.acknowledged = 0

    def begin(self, operations: dict[str, str | None]) -> None:
        """Before sending: id -> text, or None to delete."""
        with self._lock:
            for name, text in operations.items():
                document = self._documents.setdefault(name, _Document())
                document.possible.append(text)
                if text is not None:
                    document.texts.add(text)

    def acknowledge(self, operations: dict[str, str | None]) -> None:
        """Done, and so is nothing older any more."""
        with self._lock:
            self.acknowledged += len(operations)
            for name, text in operations.items():
                self._documents[name].possible = [text]

    def names(self) -> list[str]:
        """Every id ever sent."""
        return sorted(self._documents)

    def settle(self, found: dict[str, str]) -> list[str]:
        """Compare with what is there now: what is wrong, in words. What is there is certain then.

        found: id -> text of every document that exists.
        """
        problems = []
        for name, document in self._documents.items():
            text = found.get(name)
            if text not in document.possible:
                problems.append(f"{name}: found {text!r}, expected one of {document.possible!r}")
            document.possible = [text]
        problems += [f"{name}: never written" for name in found.keys() - self._documents.keys()]
        return problems

    def state(self, name: str) -> str | None:
        """Of a settled document."""
        (text,) = self._documents[name].possible
        return text

    def outdated(self, name: str) -> set[str]:
        """Texts that this document had and has no more."""
        return self._documents[name].texts - {self.state(name)}
