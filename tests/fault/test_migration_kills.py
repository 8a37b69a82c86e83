"""kill -9 of the store, the coarse worker or the engine at random moments of a migration, under
writes.

Afterwards the new generation serves every acknowledged document as it was acknowledged, the old
one has the same, so that a rollback loses nothing either, and no answer mixes the two. Only `make
soak` does this to processes; tests/nestvec/replication/test_migrations.py does it in one.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nestvec.client import IngestDocument, NestvecClient
from nestvec.core.errors import NestvecError
from nestvec.core.migration import (
    MigrationStatus,
    MigrationWish,
    Phase,
    ShadowTerms,
    generation_name,
)
from nestvec.core.model_spec import ModelSpec
from tests.fault.history import History
from tests.fault.processes import PATIENCE_S, Processes
from tests.fault.writing import Writer, check, contents_of, patient
from tests.support.long_runs import takes_long
from tests.support.small_models import save_turned

SEED = int(os.environ.get("NESTVEC_FAULT_SEED", "20261124"))
COLLECTION = "moving"
KILLS = 20
DOCUMENTS = 2000
# Documents a second: while half of the kills fall, it is being filled. The others find the rest.
RATE = 10.0
LONGEST_REST_S = 0.8
ROLES = ("engine", "engine", "store", "coarse")


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path) as running:
        yield running


class Asker(threading.Thread):
    """Searches until told to stop. Each answer must be of one of the two spaces, whole."""

    def __init__(self, address: str, fingerprints: dict[int, str]) -> None:
        super().__init__(name="asker")
        self._address = address
        self._fingerprints = fingerprints
        self.stopping = threading.Event()
        self.answered: dict[int, int] = {}
        self.mixed: list[str] = []

    def run(self) -> None:
        with NestvecClient(self._address, timeout_s=3.0) as client:
            while not self.stopping.is_set():
                try:
                    result = client.search(COLLECTION, "river summit tundra", k=5, ids_only=True)
                except NestvecError:
                    time.sleep(0.05)  # what it asks for is killed
                    continue
                spaces = {result.coarse.fingerprint, result.scoring.fingerprint}
                expected = self._fingerprints.setdefault(result.generation, min(spaces))
                if spaces != {expected}:
                    self.mixed.append(f"generation {result.generation}: {spaces}, not {expected}")
                self.answered[result.generation] = self.answered.get(result.generation, 0) + 1
                time.sleep(0.01)


@takes_long
@pytest.mark.timeout(120 + 30 * KILLS)
def test_a_migration_killed_at_random_points_loses_nothing(
    processes: Processes, tmp_path: Path
) -> None:
    chosen = random.Random(SEED)
    history = History()
    turned = save_turned(tmp_path / "turned")
    with NestvecClient(processes.address, timeout_s=PATIENCE_S) as client:
        old = client.create_collection(COLLECTION, tiers=[128, 256])
        fill(client, history, chosen)
        wish = MigrationWish(
            ModelSpec(str(turned)), golden=False, shadow=ShadowTerms(queries=0), rate=RATE
        )
        writer = Writer(0, processes.address, COLLECTION, history, chosen.getrandbits(32))
        asker = Asker(processes.address, {old.generation: old.space.fingerprint})
        client.begin_migration(COLLECTION, wish)
        writer.start()
        asker.start()
        phases = []
        try:
            for number in range(KILLS):
                if number == KILLS // 2:
                    patient(lambda: client.step_migration(COLLECTION, "resume", rate=0.0))
                time.sleep(chosen.uniform(0.05, LONGEST_REST_S))
                phases.append(patient(lambda: client.migration(COLLECTION)).phase)
                role = ROLES[number % len(ROLES)]
                processes.kill(role)
                time.sleep(chosen.uniform(0.0, 0.3))
                processes.start(role)
            # A kill while it is made costs a number: the next attempt is another generation.
            new = until(client, Phase.SWITCHED).target
            assert new is not None
            time.sleep(0.3)
        finally:
            for thread in (writer, asker):
                thread.stopping.set()
            for thread in (writer, asker):
                thread.join(PATIENCE_S)
                assert not thread.is_alive(), "a thread hangs"
        when = f"after kills in {[one.value for one in phases]}"
        check(client, processes, COLLECTION, history, when)
        check_both_the_same(client, history, (old.generation, new.generation))
        began = time.monotonic()
        assert (
            patient(lambda: client.step_migration(COLLECTION, "rollback")).serving == old.generation
        )
        assert time.monotonic() - began < PATIENCE_S
        check(client, processes, COLLECTION, history, f"{when}, rolled back")
    assert asker.mixed == []
    assert asker.answered.get(old.generation, 0) > 0
    assert phases[0] in (Phase.CHECKING, Phase.FILLING)


def fill(client: NestvecClient, history: History, chosen: random.Random) -> None:
    texts = {
        f"base-{n}": f"base {n} {chosen.getrandbits(40):x} amber basin cedar {n % 7}"
        for n in range(DOCUMENTS)
    }
    history.begin(dict(texts))
    report = client.index(COLLECTION, [IngestDocument(*one) for one in texts.items()])
    assert report.failed == 0
    history.acknowledge(dict(texts))


def until(client: NestvecClient, phase: Phase) -> MigrationStatus:
    deadline = time.monotonic() + 4 * PATIENCE_S
    while True:
        status = patient(lambda: client.migration(COLLECTION))
        if status.phase is phase:
            return status
        assert not status.ended, status
        assert time.monotonic() < deadline, status
        time.sleep(0.1)


def check_both_the_same(
    client: NestvecClient, history: History, generations: tuple[int, int]
) -> None:
    """Once what was written last is carried over."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        contents = [
            contents_of(client, generation_name(COLLECTION, one), history) for one in generations
        ]
        if contents[0] == contents[1]:
            return
        assert time.monotonic() < deadline, contents[0].items() ^ contents[1].items()
        time.sleep(0.1)
