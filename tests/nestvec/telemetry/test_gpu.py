"""Memory of GPUs, by what torch and FAISS say; without a GPU nothing is told."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from nestvec.adapters.faiss_index import GpuResources
from nestvec.telemetry.gpu import Torch, of_faiss
from tests.support.scrape import all_series

_GIB = 1 << 30


class Cuda:
    """As torch.cuda: two devices, of which this process uses the second."""

    def __init__(self, initialized: bool = True) -> None:
        self.initialized = initialized
        self.asked: list[int] = []

    def is_initialized(self) -> bool:
        return self.initialized

    def device_count(self) -> int:
        return 2

    def memory_reserved(self, device: int) -> int:
        return 3 * _GIB if device == 1 else 0

    def mem_get_info(self, device: int) -> tuple[int, int]:
        self.asked.append(device)
        return 5 * _GIB, 16 * _GIB


def test_torch_tells_of_the_devices_that_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert dict(Torch().readings()) == {
        ("1", "total"): 16.0 * _GIB,
        ("1", "used"): 11.0 * _GIB,
        ("1", "torch"): 3.0 * _GIB,
    }
    # Asking the other one would take some of its memory.
    assert cuda.asked == [1]


@pytest.mark.parametrize("module", [None, SimpleNamespace(cuda=Cuda(initialized=False))])
def test_without_torch_on_a_gpu_there_is_no_series(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", module)
    assert list(Torch().readings()) == []
    assert not any(name.startswith("nestvec_gpu") for name, _ in all_series())


def test_of_faiss_all_kinds_of_allocation_count() -> None:
    info = {0: {"TemporaryMemoryBuffer": (1, 100), "FlatData": (3, 50)}, 1: {"Other": (0, 0)}}
    assert dict(of_faiss(info)) == {("0", "faiss"): 150.0, ("1", "faiss"): 0.0}


class Resources:
    """As faiss.StandardGpuResources."""

    nbytes = 10

    def getMemoryInfo(self) -> dict[int, dict[str, tuple[int, int]]]:
        return {0: {"FlatData": (1, self.nbytes)}}


def test_faiss_is_not_asked_while_a_call_holds_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its resources are not thread-safe: what was told last is told again."""
    monkeypatch.setattr("nestvec.adapters.faiss_index._GPU_PATIENCE_S", 0.01)
    resources = GpuResources(SimpleNamespace(StandardGpuResources=Resources))
    assert resources.memory() == [(("0", "faiss"), 10.0)]
    resources.handle.nbytes = 30
    with resources.lock:
        assert resources.memory() == [(("0", "faiss"), 10.0)]
    assert resources.memory() == [(("0", "faiss"), 30.0)]
