"""Who is let in when there are too many: the fast lane last of all is turned away."""

from __future__ import annotations

from collections.abc import Iterable

from nestvec.core.errors import Overloaded
from nestvec.query.plan import DEFAULT_CLASS, SearchClass

# By then some of those under way have ended: they take milliseconds each.
_RETRY_AFTER_S = 0.2


class Admission:
    """A bound on the queries under way in this process, of which each class may fill a share.

    All classes count together, so that a deep class is refused while there is still room for a fast
    one, whoever has filled the rest. A batch counts once: its queries are answered in turn.
    """

    def __init__(self, classes: Iterable[SearchClass], most: int) -> None:
        # One at least: what is alone is never too many.
        self._room = {one.name: max(1, int(one.admitted_share * most)) for one in classes}
        self._room[""] = self._room.get(DEFAULT_CLASS, most)
        self._most = most
        self.under_way = 0

    def enter(self, search_class: str) -> None:
        """Count one more; `leave` must follow. Raises Overloaded. A class that does not exist is
        let in: whoever plans the query says so.
        """
        room = self._room.get(search_class, self._most)
        if self.under_way >= room:
            name = search_class or DEFAULT_CLASS
            raise Overloaded(
                f"{self.under_way} queries are under way, and class {name!r} is let in up to "
                f"{room} of {self._most}; retry later, add front ends, or raise "
                f"limits.max_queries_under_way or classes.{name}.share",
                _RETRY_AFTER_S,
            )
        self.under_way += 1

    def leave(self) -> None:
        """One has ended."""
        self.under_way -= 1
