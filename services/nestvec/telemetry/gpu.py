"""Memory of the GPUs that this process computes on. Without one nothing is told.

No library is loaded for it: torch is asked where the process has brought it up on a GPU, and FAISS
by whoever holds its resources (adapters/faiss_index.py). Devices are numbered as CUDA does for this
process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nestvec.telemetry.scraped import Reading

# What `part` may be.
TOTAL, USED, TORCH, FAISS = "total", "used", "torch", "faiss"


class Torch:
    """What torch knows; the module is looked up at each reading, since models are opened late."""

    def readings(self) -> Iterator[Reading]:
        """Of the devices that torch has memory on: all there is, what all processes use, and what
        this one's torch has reserved, in bytes.
        """
        torch: Any = sys.modules.get("torch")
        # It may be on its way in, in another thread.
        initialized = getattr(getattr(torch, "cuda", None), "is_initialized", None)
        if initialized is None or not initialized():
            return
        for number in range(torch.cuda.device_count()):
            reserved = torch.cuda.memory_reserved(number)
            # Asking a device for its free memory takes some of it, where nothing runs there.
            if not reserved:
                continue
            free, total = torch.cuda.mem_get_info(number)
            device = str(number)
            yield (device, TOTAL), float(total)
            yield (device, USED), float(total - free)
            yield (device, TORCH), float(reserved)


def of_faiss(info: Mapping[int, Mapping[str, tuple[int, int]]]) -> Iterable[Reading]:
    """What `StandardGpuResources.getMemoryInfo` gives: by device and kind of allocation, how many
    there are and their bytes.
    """
    for number, allocations in info.items():
        nbytes = sum(size for _, size in allocations.values())
        yield (str(number), FAISS), float(nbytes)
