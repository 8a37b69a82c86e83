"""Who is let in when there are too many: the fast lane last of all is turned away."""

from __future__ import annotations

from collections.abc import Container, Iterable

from nestvec.core.errors import Overloaded
from nestvec.query.plan import DEFAULT_CLASS, SearchClass
from nestvec.telemetry import metrics
from nestvec.telemetry.scraped import by_name

# By then some of those under way have ended: they take milliseconds each.
_RETRY_AFTER_S = 0.2


class Admission:
    """A bound on the queries under way in this process, of which each class may fill a share.

    All classes count together, so that a deep class is refused while there is still room for a fast
    one, whoever has filled the rest. A batch counts once: its queries are answered in turn.
    """

    def __init__(self, classes: Iterable[SearchClass], most: int) -> None:
        # One at least: what is alone is never too many.
        self._room = room = {one.name: max(1, int(one.admitted_share * most)) for one in classes}
        self._most = most
        self._by_class = by_class = dict.fromkeys((*self._room, metrics.UNKNOWN_CLASS), 0)
        self.under_way = 0
        metrics.QUERIES_ROOM.watch(self, lambda _: by_name(room))
        metrics.QUERIES_UNDER_WAY.watch(self, lambda _: by_name(by_class))

    def enter(self, search_class: str) -> None:
        """Count one more; `leave` must follow. Raises Overloaded. A class that does not exist is
        let in: whoever plans the query says so.
        """
        label = class_label(search_class, self._room)
        room = self._room.get(label, self._most)
        if self.under_way >= room:
            metrics.QUERIES_REFUSED.labels(label).inc()
            name = search_class or DEFAULT_CLASS
            raise Overloaded(
                f"{self.under_way} queries are under way, and class {name!r} is let in up to "
                f"{room} of {self._most}; retry later, add front ends, or raise "
                f"limits.max_queries_under_way or classes.{name}.share",
                _RETRY_AFTER_S,
            )
        self.under_way += 1
        self._by_class[label] += 1

    def leave(self, search_class: str) -> None:
        """One of that class has ended."""
        self.under_way -= 1
        self._by_class[class_label(search_class, self._room)] -= 1


def class_label(search_class: str, classes: Container[str]) -> str:
    """For metrics: one of `classes`, or UNKNOWN_CLASS, whatever a caller says."""
    name = search_class or DEFAULT_CLASS
    return name if name in classes else metrics.UNKNOWN_CLASS
