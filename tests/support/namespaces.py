"""Network namespaces of this machine, and a wide area between them that is a router of our own.

Each has an address in the wide area, behind a TUN device: what leaves by it is read here, packet by
packet, and goes into the other namespace when as long as one way takes has passed; or never, while
the two are cut apart. Nobody is told of a cut, as where a cable is: packets vanish, connections
neither begin nor end. From here each namespace is reached at once, by a veth pair.

It takes root, `ip` (Debian: iproute2) and /dev/net/tun, and no packet filter or queueing discipline
of the kernel's. Everything it makes has this process's id in its name, and is removed by it.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import re
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import combinations, count
from pathlib import Path

import pytest

_TUNSETIFF = 0x400454CA
# A device of packets, with nothing before them.
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_TUN = Path("/dev/net/tun")
# Ranges for tests of networks (RFC 2544), routed nowhere: the wide area, and the ways from here.
_WIDE = "198.18.0"
_NEAR = f"198.19.{os.getpid() % 256}"
_PACKET = 1 << 16
_IDLE_S = 0.05
_OURS = re.compile(r"nestvec-(\d+)-")


@dataclass(frozen=True, slots=True)
class Namespace:
    """name: as `ip netns` knows it. wide: its address in the wide area. near: its address for this
    machine.
    """

    name: str
    wide: str
    near: str

    def command(self, *command: str) -> list[str]:
        """To run something in it."""
        return ["ip", "netns", "exec", self.name, *command]


class WideArea:
    """Passes packets between namespaces. one_way_s: of each pair, by the names that were given.

    passed, dropped: packets so far.
    """

    def __init__(self, one_way_s: Mapping[tuple[str, str], float]) -> None:
        self._one_way_s = {frozenset(pair): way_s for pair, way_s in one_way_s.items()}
        self._apart: frozenset[frozenset[str]] = frozenset()
        self._devices: dict[int, str] = {}
        self._homes: dict[bytes, tuple[int, str]] = {}
        # When due, in which order, from whom, into which device and to whom.
        self._under_way: list[tuple[float, int, str, int, str, bytes]] = []
        self._numbers = count()
        self._stopping = False
        self.passed = self.dropped = 0

    def join(self, name: str, device: int, address: str) -> None:
        """Another namespace. device: a file descriptor of its packets."""
        self._devices[device] = name
        self._homes[bytes(map(int, address.split(".")))] = device, name

    def cut(self, *names: str) -> None:
        """Nothing goes from or to these any more, what is on its way neither."""
        self._apart = frozenset(pair for pair in self._one_way_s if not pair.isdisjoint(names))

    def heal(self) -> None:
        """Everything goes through again."""
        self._apart = frozenset()

    def run(self) -> None:
        """Until it is stopped."""
        while not self._stopping:
            wait_s = _IDLE_S
            if self._under_way:
                wait_s = min(wait_s, max(0.0, self._under_way[0][0] - time.monotonic()))
            # Not epoll, which rounds every wait up to a millisecond.
            for device in select.select([*self._devices], [], [], wait_s)[0]:
                self._take(device)
            self._deliver()

    def stop(self) -> None:
        """Soon."""
        self._stopping = True

    def _take(self, device: int) -> None:
        source = self._devices[device]
        with suppress(BlockingIOError):
            while True:
                packet = os.read(device, _PACKET)
                # IPv4: the address that it goes to. Others are nobody's business.
                target = self._homes.get(packet[16:20]) if packet[0] >> 4 == 4 else None
                if target is None:
                    continue
                into, name = target
                due_s = time.monotonic() + self._one_way_s[frozenset((source, name))]
                packed = (due_s, next(self._numbers), source, into, name, packet)
                heapq.heappush(self._under_way, packed)

    def _deliver(self) -> None:
        now_s = time.monotonic()
        while self._under_way and self._under_way[0][0] <= now_s:
            _, _, source, into, name, packet = heapq.heappop(self._under_way)
            if frozenset((source, name)) in self._apart:
                self.dropped += 1
                continue
            os.write(into, packet)
            self.passed += 1


@contextmanager
def namespaces(
    round_trips_s: Mapping[tuple[str, str], float],
) -> Iterator[tuple[dict[str, Namespace], WideArea]]:
    """By name, of all pairs that are given, and what is between them. Skips the test where this
    machine allows none.
    """
    names = sorted({name for pair in round_trips_s for name in pair})
    assert len(round_trips_s) == len([*combinations(names, 2)]), "each pair once"
    _require_allowed()
    _remove_leftovers()
    wide = WideArea({pair: one / 2 for pair, one in round_trips_s.items()})
    with ExitStack() as stack:
        made = {
            name: stack.enter_context(_namespace(name, number, wide))
            for number, name in enumerate(names, 1)
        }
        router = threading.Thread(target=wide.run, name="wide-area", daemon=True)
        router.start()
        try:
            yield made, wide
        finally:
            wide.stop()
            router.join()


@contextmanager
def _namespace(name: str, number: int, wide: WideArea) -> Iterator[Namespace]:
    made = Namespace(
        f"nestvec-{os.getpid()}-{name}", f"{_WIDE}.{number}", f"{_NEAR}.{4 * number + 2}"
    )
    pair, tun = f"nv{os.getpid()}-{number}", f"nt{os.getpid()}-{number}"
    with ExitStack() as stack:
        _ip("netns", "add", made.name)
        stack.callback(_ip, "netns", "del", made.name)
        inside = ("-n", made.name)
        _ip(*inside, "link", "set", "lo", "up")
        _ip("link", "add", pair, "type", "veth", "peer", "name", "near", "netns", made.name)
        stack.callback(_ip, "link", "del", pair)
        _ip("addr", "add", f"{_NEAR}.{4 * number + 1}/30", "dev", pair)
        _ip("link", "set", pair, "up")
        _ip(*inside, "addr", "add", f"{made.near}/30", "dev", "near")
        _ip(*inside, "link", "set", "near", "up")
        device = _tun(tun)
        stack.callback(os.close, device)
        _ip("link", "set", tun, "netns", made.name)
        _ip(*inside, "addr", "add", f"{made.wide}/24", "dev", tun)
        _ip(*inside, "link", "set", tun, "up")
        wide.join(name, device, made.wide)
        yield made


def _tun(name: str) -> int:
    """A file descriptor that reads and writes the packets of a new device. Where it goes, the
    device goes too.
    """
    device = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


def _require_allowed() -> None:
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need ip (Debian: iproute2) and root")
    probe = f"nestvec-{os.getpid()}-probe"
    try:
        _ip("netns", "add", probe)
        _ip("netns", "del", probe)
        os.close(os.open(_TUN, os.O_RDWR))
    except (OSError, AssertionError) as error:
        pytest.skip(f"this machine allows no network namespaces with TUN devices: {error}")


def _remove_leftovers() -> None:
    """Of processes that were killed."""
    for line in _ip("netns", "list").splitlines():
        found = _OURS.match(line)
        if found is not None and not Path("/proc", found.group(1)).exists():
            _ip("netns", "del", line.split()[0])


def _ip(*arguments: str) -> str:
    command: Sequence[str] = ("ip", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout
