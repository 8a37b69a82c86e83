"""Real engines as regions of one map, each with a store of its own, behind cutting proxies."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nestvec.client import NestvecClient
from nestvec.config import load_settings
from nestvec.core.errors import NestvecError
from nestvec_cluster.background import background_engine
from nestvec_cluster.ports import free_ports
from nestvec_cluster.wan import DelayingProxy, wide_area

PATIENCE_S = 60.0
# `regions.collections`
Collections = Mapping[str, Mapping[str, Any]]
REPLICATED: Collections = {"docs": {"mode": "replicated"}}


# Of settings: an engine that is starting, and what waits until it serves at an address.
Start = Callable[[Mapping[str, Any]], AbstractContextManager[Callable[[], str]]]


@contextmanager
def in_this_process(settings: Mapping[str, Any]) -> Iterator[Callable[[], str]]:
    """On a thread of its own."""
    with background_engine(load_settings(None, settings)) as address:
        yield lambda: address


@contextmanager
def as_process(settings: Mapping[str, Any]) -> Iterator[Callable[[], str]]:
    """As `nestvec serve` would, with a store as its child."""
    with process_at(f"127.0.0.1:{settings['server']['port']}", settings) as ready:
        yield ready


@contextmanager
def process_at(
    address: str, settings: Mapping[str, Any], before: Sequence[str] = ()
) -> Iterator[Callable[[], str]]:
    """`as_process`, to be found at an address. before: of the command, what runs it elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        path, log = Path(folder, "nestvec.yaml"), Path(folder, "log")
        path.write_text(yaml.safe_dump(settings))
        with log.open("wb") as said:
            process = subprocess.Popen(
                [*before, sys.executable, "-m", "nestvec_cluster.cli", "serve", "--config", path],
                stdout=said,
                stderr=said,
            )
        try:
            yield lambda: _serving(address, process, log)
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _serving(address: str, process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait for it."""
    with NestvecClient(address, timeout_s=1.0, wait_for_ready=True) as client:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert process.poll() is None, log.read_text(errors="replace")
            try:
                client.server()
            except NestvecError:
                if time.monotonic() > deadline:
                    raise
            else:
                return address


@dataclass
class Regions:
    """addresses: of each region's engine, by name. ways: (from, to) -> what stands between."""

    addresses: dict[str, str] = field(default_factory=dict)
    ways: dict[tuple[str, str], DelayingProxy] = field(default_factory=dict)

    def cut(self, *names: str) -> None:
        """Nothing goes from or to these any more."""
        for (there, here), way in self.ways.items():
            if there in names or here in names:
                way.cut()

    def heal(self) -> None:
        """Everything goes through again."""
        for way in self.ways.values():
            way.heal()


@contextmanager
def region_engines(
    names: Sequence[str],
    collections: Collections | Callable[[str], Collections] = REPLICATED,
    one_way_s: float = 0.0,
    start: Start = in_this_process,
) -> Iterator[Regions]:
    """One engine a name. collections: that they share, or what each of them says of it. start: runs
    one of these settings, and gives its address.
    """
    regions = Regions()
    pairs = [(one, other) for one in names for other in names if one != other]
    regions.ways = {pair: DelayingProxy(one_way_s) for pair in pairs}
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    for (_, other), way in regions.ways.items():
        way.target = f"127.0.0.1:{ports[other]}"
    with ExitStack() as stack:
        stack.enter_context(wide_area(list(regions.ways.values())))
        engines = {}
        for here in names:
            seen = {name: f"127.0.0.1:{ports[name]}" for name in names}
            seen |= {
                other: way.address for (one, other), way in regions.ways.items() if one == here
            }
            shared = collections(here) if callable(collections) else collections
            settings = settings_of(here, seen, shared)
            settings["server"]["port"] = ports[here]
            engines[here] = stack.enter_context(start(settings))
        regions.addresses = {name: ready() for name, ready in engines.items()}
        yield regions


def settings_of(here: str, seen: Mapping[str, str], collections: Collections) -> dict[str, Any]:
    """Of one region, but for where it listens. seen: where it finds each of them, by name."""
    return {
        "server": {"drain_s": 0.5},
        "log": {"level": "error"},
        "live_recall": {"cpu_share": 0},
        "regions": {
            "here": here,
            "map": [
                {"name": name, "number": number, "endpoints": [address]}
                for number, (name, address) in enumerate(seen.items(), 1)
            ],
            "collections": collections,
        },
    }
