"""How far a long command is: one line that goes when the work is done, and what each phase took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn


@dataclass(slots=True)
class Phases:
    """seconds: by phase, in the order they ran. console: where progress shows; where that is no
    terminal, a line a phase.
    """

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total_s(self) -> float:
        """Of all phases together."""
        return sum(self.seconds.values())

    @contextmanager
    def timed(self, name: str, doing: str) -> Iterator[Meter]:
        """Time one phase. doing: what is shown meanwhile."""
        started = time.perf_counter()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[counted]}"),
        )
        shown = self.console.is_terminal
        with Progress(
            *columns, console=self.console, transient=True, disable=not shown
        ) as progress:
            yield Meter(progress, doing)
        self.seconds[name] = round(time.perf_counter() - started, 3)
        if not shown:
            self.console.print(f"{doing}: {self.seconds[name]:.1f} s", highlight=False)


class Meter:
    """The line that shows one phase."""

    def __init__(self, progress: Progress, doing: str) -> None:
        self._progress = progress
        self._task = progress.add_task(doing, total=None, counted="")

    def count(self, doing: str, total: int) -> Callable[[int], None]:
        """From now on show `doing`, and how many of `total` the returned function is told."""
        self._progress.reset(self._task, total=total, description=doing, counted="")

        def show(done: int) -> None:
            counted = f"{done:,} of {total:,}"
            self._progress.update(self._task, completed=done, counted=counted)

        return show
