"""Several servers behind one client: no read fails for one that is gone, late, or going."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.client import IngestDocument, IngestInterrupted, NestvecClient
from nestvec.client.front_ends import Attempts, FrontEnds
from nestvec.core.errors import ConfigError, NotFound, WorkerUnavailable
from nestvec.core.hedging import BURST, EXTRA_SHARE
from tests.support.engine import SharedEngine
from tests.support.relay import Relay
from tests.support.stores import free_port

Connect = Callable[..., NestvecClient]


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def front_ends(count: int, clock: Clock) -> FrontEnds:
    return FrontEnds(count, clock, random.Random(7).randrange)


# --- without any I/O ------------------------------------------------------------------------------


def test_a_late_read_is_asked_elsewhere_once_and_a_lost_one_again() -> None:
    clock = Clock()
    attempts = Attempts(front_ends(3, clock), "read")
    first = attempts.start()
    patience = attempts.patience_s()
    assert patience is not None
    assert not attempts.another_is_due()
    clock.now_s += patience
    assert attempts.another_is_due()
    second = attempts.start()
    assert second.server != first.server
    clock.now_s += patience
    assert not attempts.another_is_due(), "one hedge a read"
    lost = attempts.patience_s()
    assert lost is not None
    clock.now_s += lost
    assert attempts.another_is_due()
    third = attempts.start()
    assert {first.server, second.server, third.server} == {0, 1, 2}
    assert attempts.patience_s() is None, "nobody is left to ask"
    attempts.answered(third)


def test_extra_calls_stay_within_the_budget_when_everything_is_late() -> None:
    clock = Clock()
    servers = front_ends(2, clock)
    hedges = 0
    for _ in range(1000):
        attempts = Attempts(servers, "read")
        first = attempts.start()
        clock.now_s += attempts.patience_s() or 0.0
        if attempts.another_is_due():
            hedges += 1
            attempts.start()
        attempts.answered(first)
    assert 0 < hedges <= EXTRA_SHARE * 1000 + BURST


def test_a_server_that_is_held_for_lost_is_left_alone_and_then_tried_again() -> None:
    clock = Clock()
    servers = front_ends(2, clock)
    for _ in range(8):
        servers.pick({1})
        servers.failed(0)
    picked = Counter(one_read(servers) for _ in range(200))
    assert picked[1] == 200
    clock.now_s += 60.0
    assert Counter(one_read(servers) for _ in range(200))[0] > 50


def one_read(servers: FrontEnds) -> int:
    number = servers.pick()
    servers.answered(number, "read", 0.001)
    return number


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(2, 4))
def test_a_read_ends_whatever_fails_and_leaves_nothing_under_way(
    outcomes: list[bool], count: int
) -> None:
    clock = Clock()
    servers = front_ends(count, clock)
    attempts = Attempts(servers, "read")
    for tries, succeeds in enumerate(itertools.chain(outcomes, itertools.repeat(False))):
        attempt = attempts.start()
        assert tries < 4 * count, "it goes on for ever"
        if succeeds:
            attempts.answered(attempt)
            break
        if not attempts.failed(attempt):
            break
        while not attempts.another_is_due():
            clock.now_s += attempts.patience_s() or 0.0
    assert all(server.under_way == 0 for server in servers._servers)


# --- over sockets ---------------------------------------------------------------------------------


@pytest.fixture
def relays(engine: SharedEngine) -> Iterator[list[Relay]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Relay(engine.address)) for _ in range(2)]


def all_of(relays: list[Relay]) -> str:
    return ",".join(relay.address for relay in relays)


def test_reads_survive_a_server_that_is_not_there(
    connect: Connect, engine: SharedEngine, passages: str
) -> None:
    client = connect(f"127.0.0.1:{free_port()}, {engine.address}", timeout_s=20)
    for _ in range(20):
        assert client.search(passages, "cats").hits
    assert client.describe(passages).documents == 60


def test_reads_survive_a_server_that_goes(
    connect: Connect, relays: list[Relay], passages: str
) -> None:
    client = connect(all_of(relays), timeout_s=20)
    for _ in range(10):
        assert client.search(passages, "cats").hits
    relays[0].cut()
    for _ in range(20):
        assert client.search(passages, "cats").hits


def test_reads_survive_a_server_that_hears_and_says_nothing(
    connect: Connect, relays: list[Relay], passages: str
) -> None:
    client = connect(all_of(relays), timeout_s=20)
    for _ in range(10):
        assert client.search(passages, "cats").hits
    relays[1].mute()
    for _ in range(40):
        assert client.search(passages, "cats").hits


def test_a_refusal_is_raised_and_not_asked_again(
    connect: Connect, relays: list[Relay], passages: str
) -> None:
    client = connect(all_of(relays), timeout_s=20)
    with pytest.raises(NotFound):
        client.search("nowhere", "cats")
    assert client.search(passages, "cats").hits


def test_when_all_are_gone_the_last_error_is_raised(connect: Connect) -> None:
    client = connect(f"127.0.0.1:{free_port()},127.0.0.1:{free_port()}", timeout_s=20)
    with pytest.raises(WorkerUnavailable):
        client.search("docs", "cats")


def test_writes_go_to_one_server_and_to_another_one_when_it_is_gone(
    connect: Connect, engine: SharedEngine, collection_name: str
) -> None:
    client = connect(f"{engine.address},127.0.0.1:{free_port()}", timeout_s=5)
    with NestvecClient(engine.address) as direct:
        direct.create_collection(collection_name)
    done = 0
    for number in range(30):
        with suppress(WorkerUnavailable, IngestInterrupted):
            done += client.index(collection_name, [IngestDocument(f"d{number}", "a cat")]).indexed
    assert client.describe(collection_name).documents == done
    # It is left alone after four failures, and probed once in a while.
    assert done >= 20


@pytest.mark.parametrize("address", ["127.0.0.1:1,", ",", "127.0.0.1:1,nowhere"])
def test_an_address_among_several_that_is_none_is_refused(connect: Connect, address: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        connect(address)
