"""Writers that keep a history of what was acknowledged, and the check of what became of it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import TypeVar

from nestvec.client import AckName, IngestDocument, NestvecClient
from nestvec.core.errors import NestvecError
from tests.fault.history import History
from tests.fault.processes import PATIENCE_S, Processes
from tests.support.long_runs import LONG

Result = TypeVar("Result")
ACKS: tuple[AckName, ...] = ("stored", "searchable")
NAMES_PER_WRITER = 150
# Of which it is looked whether they are found by their own texts.
_SEARCHED = 60 if LONG else 15
_CALL_S = 3.0
_WORDS = (
    "amber basin cedar delta ember fjord grove harbor island jungle kernel lagoon meadow nectar "
    "orchid prairie quartz river summit tundra umber valley willow yarrow zephyr anchor beacon"
)


class Writer(threading.Thread):
    """Writes and deletes documents of its own until told to stop.

    versions: gives each operation its version, rising; None leaves versions to the server.
    pause_s: between operations. failures: of operations of which nobody knows what became.
    """

    def __init__(
        self,
        number: int,
        address: str,
        collection: str,
        history: History,
        seed: int,
        versions: Iterator[int] | None = None,
        pause_s: float = 0.0,
    ) -> None:
        super().__init__(name=f"writer-{number}")
        self._random = random.Random(seed)
        self._names = [f"w{number}-{i}" for i in range(NAMES_PER_WRITER)]
        self._address = address
        self._collection = collection
        self._history = history
        self._versions = versions
        self._pause_s = pause_s
        self.stopping = threading.Event()
        self.failures: list[str] = []

    def run(self) -> None:
        with NestvecClient(self._address, timeout_s=_CALL_S) as client:
            while not self.stopping.wait(self._pause_s):
                try:
                    self._change(client)
                except NestvecError as error:
                    # What became of it is uncertain: the next operation is another one.
                    self.failures.append(str(error))
                    time.sleep(0.02)

    def stop(self) -> None:
        """Returns once it has ended."""
        self.stopping.set()
        self.join(PATIENCE_S)
        assert not self.is_alive(), "a writer hangs"

    def _change(self, client: NestvecClient) -> None:
        chosen = self._random
        names = chosen.sample(self._names, chosen.choice([1, 1, 3, 20]))
        ack: AckName = chosen.choice(ACKS)
        version = 0 if self._versions is None else next(self._versions)
        if chosen.random() < 0.25:
            gone: dict[str, str | None] = dict.fromkeys(names)
            self._history.begin(gone)
            client.delete(self._collection, names, version=version, ack=ack)
            self._history.acknowledge(gone)
            return
        texts = {name: self._text(name) for name in names}
        written: dict[str, str | None] = dict(texts)
        self._history.begin(written)
        report = client.index(
            self._collection,
            [IngestDocument(name, text, version=version) for name, text in texts.items()],
            ack=ack,
            timeout_s=_CALL_S,
        )
        refused = {failure.id for failure in report.failures}
        self._history.acknowledge({n: t for n, t in written.items() if n not in refused})

    def _text(self, name: str) -> str:
        words = " ".join(self._random.choices(_WORDS.split(), k=6))
        return f"{name} revision {self._random.getrandbits(40):x} {words}"


def versions() -> Iterator[int]:
    """Rising, from 1."""
    return count(1)


def check(
    client: NestvecClient, processes: Processes, collection: str, history: History, when: str
) -> None:
    """That all is as it was acknowledged; else what is not, and what the processes said."""
    problems = problems_of(client, collection, history)
    logs = "\n".join(f"--- {role}\n{processes.log(role)}" for role in ("coarse", "engine"))
    assert not problems, f"{when}\n" + "\n".join(problems[:20]) + f"\n{logs}"


def contents_of(client: NestvecClient, collection: str, history: History) -> dict[str, str]:
    """id -> text of all that was ever written and is there."""
    found: dict[str, str] = {}
    for names in _batches(history.names(), 200):
        documents = patient(partial(client.get, collection, names)).documents
        found |= {document.id: document.text for document in documents}
    return found


def problems_of(client: NestvecClient, collection: str, history: History) -> list[str]:
    """All that is not as it was acknowledged: read by id, compared with the store by `verify`, and
    searched. Nothing may be written meanwhile.
    """
    problems = history.settle(contents_of(client, collection, history))
    verification = patient(lambda: client.verify(collection))
    if not verification.clean:
        problems.append(f"verify: {verification}")
    return problems + _misfound(client, collection, history)


def _misfound(client: NestvecClient, collection: str, history: History) -> list[str]:
    """Some documents by their own texts, and some texts that no document has any more."""
    problems = []
    for name in random.Random(0).sample(history.names(), min(_SEARCHED, len(history.names()))):
        text = history.state(name)
        old = sorted(history.outdated(name))[:2]
        for query in filter(None, [text, *old]):
            hits = client.search(collection, query, k=20).hits
            mine = [hit.text for hit in hits if hit.id == name]
            if len(mine) > 1:
                problems.append(f"{name}: found {len(mine)} times by {query!r}")
            if any(one != text for one in mine):
                problems.append(f"{name}: found as {mine!r}, is {text!r}")
            if query == text and not mine:
                problems.append(f"{name}: not found by its own text {text!r}")
    return problems


def patient(call: Callable[[], Result]) -> Result:
    """What was killed is back, but connections to it may not be yet."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except NestvecError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _batches(names: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]
