"""`nestvec index`: inputs into a collection, one stream each, each able to go on later."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from nestvec.client import (
    IngestDocument,
    IngestFailure,
    IngestInterrupted,
    IngestProgress,
    IngestReason,
    NestvecClient,
)
from nestvec.client.values import AckName
from nestvec.core.errors import NestvecError, StreamConflict
from nestvec_cluster.readers import Format, Input, open_input
from nestvec_cluster.resume import ResumeState
from nestvec_cluster.rows import Columns, Entry
from nestvec_cluster.tables import one_line

# Problems printed one by one; the rest is counted.
_PRINTED = 20
_KEPT = 1000


class IndexStopped(NestvecError):
    """Indexing ended before its inputs did. What was acknowledged stays."""


@dataclass(frozen=True, slots=True)
class IndexJob:
    """What to read, how, and where to. stream_id: by which the server knows how far this job is."""

    names: tuple[str, ...]
    collection: str
    format: Format
    columns: Columns
    batch_size: int
    stream_id: str | None = None
    ack: AckName = "searchable"

    def stream_of(self, number: int) -> str | None:
        """Each input is a stream of its own. number: from 0."""
        if self.stream_id is None or len(self.names) == 1:
            return self.stream_id
        return f"{self.stream_id}/{number + 1}"

    @property
    def reading(self) -> str:
        """How the inputs are read: documents are numbered anew when this changes."""
        return repr((self.format.value, self.columns.id, self.columns.text, self.columns.fields))


@dataclass(slots=True)
class InputReport:
    """What became of one input. documents: in it, without the bad rows and what was skipped."""

    name: str
    resumed_at: int = 0
    documents: int = 0
    indexed: int = 0
    refused: int = 0
    superseded: int = 0
    bad_rows: int = 0

    @property
    def flawless(self) -> bool:
        """Whether everything in it can now be found."""
        return not self.refused and not self.bad_rows


@dataclass(frozen=True, slots=True)
class Problem:
    """One row that is not in the collection."""

    where: str
    message: str


class Display:
    """Progress and problems on a console; a bar only where there is a terminal."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[indexed]:,} documents"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self.problems: list[Problem] = []
        self.problem_count = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()
        hidden = self.problem_count - _PRINTED
        if hidden > 0:
            self.say(f"and {hidden:,} more rows that are not in the collection")

    def begin(self, source: Input) -> None:
        """Show another input."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(one_line(source.name), total=source.total, indexed=0)

    def move(self, position: int, indexed: int) -> None:
        """How far it is."""
        if self._task is not None:
            self._progress.update(self._task, completed=position, indexed=indexed)

    def complain(self, problem: Problem) -> None:
        """Print one problem, unless there were many already."""
        self.problem_count += 1
        if self.problem_count <= _KEPT:
            self.problems.append(problem)
        if self.problem_count <= _PRINTED:
            self.say(f"{problem.where}: {problem.message}")

    def say(self, message: str) -> None:
        """Print above the bar."""
        self._progress.console.print(Text(one_line(message)), soft_wrap=True)


@dataclass(slots=True)
class Indexer:
    """Runs one job. state: None to keep none, as with a stream id."""

    client: NestvecClient
    job: IndexJob
    state: ResumeState | None
    display: Display
    reports: list[InputReport] = field(default_factory=list)

    def run(self) -> float:
        """Index every input; returns the seconds it took. Raises IndexStopped."""
        started = time.monotonic()
        for number, name in enumerate(self.job.names):
            with open_input(name, self.job.format, self.job.columns) as source:
                self.display.begin(source)
                _Stream(self, source, name, self.job.stream_of(number)).run()
        if self.state is not None:
            self.state.clear()
        return time.monotonic() - started

    def start_of(self, name: str) -> int:
        """How many of an input's documents are in the collection already."""
        if self.state is None:
            return 0
        start, last_id = self.state.start_of(name, self.job.reading)
        if last_id and self.client.get(self.job.collection, [last_id]).missing_ids:
            self.display.say(
                f"{name}: what an earlier run indexed is gone from {self.job.collection}; "
                f"starting from its beginning"
            )
            return 0
        if start:
            self.display.say(f"{name}: going on after {start:,} documents of an earlier run")
        return start

    def record(self, name: str, resume_at: int, last_id: str, now: bool) -> None:
        """Keep where an input stands; without a place to keep it, say so once."""
        if self.state is None:
            return
        try:
            self.state.record(name, self.job.reading, resume_at, last_id, now=now)
        except OSError as error:
            self.display.say(
                f"{self.state.path}: cannot be written ({error.strerror}); an interruption could "
                f"not be resumed"
            )
            self.state = None


class _Stream:
    """One input on its way: which row stands at which offset, and what was settled."""

    def __init__(self, indexer: Indexer, source: Input, name: str, stream_id: str | None) -> None:
        self._indexer = indexer
        self._source = source
        self._name = name
        self._stream_id = stream_id
        self._start = indexer.start_of(name)
        self._resume_at = self._start
        self._last_id = ""
        # (where, id) of what was sent and is not settled, from `_resume_at` on.
        self._sent: dict[int, tuple[str, str]] = {}
        self._report = InputReport(source.name, resumed_at=self._start)
        indexer.reports.append(self._report)

    def run(self) -> None:
        """Send everything."""
        complete = False
        try:
            report = self._indexer.client.index(
                self._indexer.job.collection,
                self._documents(self._source.entries),
                batch_size=self._indexer.job.batch_size,
                on_progress=self._settle,
                first_offset=self._start,
                stream_id=self._stream_id,
                ack=self._indexer.job.ack,
            )
            complete = True
            self._leave_out(report.skipped)
        except IngestInterrupted as error:
            self._leave_out(error.report.skipped)
            raise self._stopped(str(error.__cause__)) from None
        except StreamConflict as error:
            # It says itself what to do: the same command would end in the same way.
            raise self._stopped(str(error), way_on="") from None
        finally:
            # Also when a bad file, or the user, ends it: what was settled is settled.
            self._indexer.record(self._name, self._resume_at, self._last_id, now=not complete)

    def _documents(self, entries: Iterable[Entry]) -> Iterator[IngestDocument]:
        offset = 0
        for entry in entries:
            if entry.document is None:
                if offset >= self._start:
                    self._report.bad_rows += 1
                    self._indexer.display.complain(Problem(entry.where, entry.problem))
                continue
            if offset >= self._start:
                self._sent[offset] = (entry.where, entry.document.id)
                self._report.documents += 1
                yield entry.document
            offset += 1

    def _settle(self, progress: IngestProgress) -> None:
        failures = {failure.offset: failure for failure in progress.failures}
        self._report.indexed = progress.indexed
        for offset in range(self._resume_at, progress.acknowledged_offset + 1):
            if offset not in self._sent:
                # Left out: the server had acknowledged it to an earlier run.
                self._resume_at = offset + 1
                continue
            where, document_id = self._sent.pop(offset)
            failure = failures.get(offset)
            if failure is None:
                self._last_id = document_id
            else:
                self._refuse(where, failure)
            self._resume_at = offset + 1
        self._indexer.record(self._name, self._resume_at, self._last_id, now=False)
        self._indexer.display.move(self._source.position(), progress.indexed)

    def _leave_out(self, count: int) -> None:
        """Do not count what an earlier run of this stream had done."""
        if count:
            self._report.resumed_at = count
            self._report.documents -= count
            self._indexer.display.say(
                f"{self._name}: {count:,} documents had been acknowledged to an earlier run"
            )

    def _refuse(self, where: str, failure: IngestFailure) -> None:
        if failure.reason is IngestReason.SUPERSEDED:
            self._report.superseded += 1
        elif failure.reason is IngestReason.UNAVAILABLE:
            # Sent again it may be taken: the run ends here, and the next one begins with it.
            raise self._stopped(f"{where}: {failure.message}")
        else:
            self._report.refused += 1
            self._indexer.display.complain(Problem(where, failure.message))

    def _stopped(self, reason: str, way_on: str | None = None) -> IndexStopped:
        kept_here = self._indexer.state is not None and self._source.total is not None
        if way_on is None:
            way_on = (
                "; run the same command again to go on from there"
                if kept_here or self._stream_id is not None
                else "; send the rest again"
            )
        return IndexStopped(
            f"{self._source.name}: stopped after {self._resume_at:,} documents: {reason}{way_on}"
        )
