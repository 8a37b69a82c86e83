"""The network that demos and tests of regions run on."""

from __future__ import annotations

import gc
import socket

from nestvec_cluster.wan import DelayingProxy, wide_area

MUCH = 8 << 20
PATIENT_S = 20.0


def test_a_network_that_ends_leaves_nothing_open() -> None:
    # What stays open is a ResourceWarning of a later test, which pytest takes for its failure.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = DelayingProxy(0.0, f"127.0.0.1:{listener.getsockname()[1]}")
        with wide_area([proxy]):
            host, _, port = proxy.address.rpartition(":")
            for _ in range(5):
                busy = socket.create_connection((host, int(port)), timeout=PATIENT_S)
                busy.setblocking(False)
                # The other side reads nothing: what it is sent stays in the proxy.
                assert busy.send(b"x" * MUCH) > 0
                with listener.accept()[0], busy:
                    pass
                silent = socket.create_connection((host, int(port)), timeout=PATIENT_S)
                with listener.accept()[0]:
                    silent.close()
            waiting = [socket.create_connection((host, int(port))) for _ in range(20)]
    for one in waiting:
        one.settimeout(PATIENT_S)
        with one:
            assert hangs_up(one)
    gc.collect()


def hangs_up(end: socket.socket) -> bool:
    try:
        return end.recv(1) == b""
    except ConnectionError:
        return True
