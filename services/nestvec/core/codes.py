"""Which codes stand for vectors: in the coarse scan, and in the store."""

from __future__ import annotations

import enum

from nestvec.core.codec import VectorDtype


class CoarseCode(enum.StrEnum):
    """What the index of a coarse segment scans. Small segments are scanned exactly whatever it is.

    AUTO is chosen by size and hardware: 4 bits for each pair of dimensions where there is no GPU.
    """

    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    FOUR_BIT = "4bit"
    RABITQ = "rabitq"
    PQ = "pq"

    def applied(self, dim: int) -> CoarseCode:
        """The code itself; for AUTO, the one that it comes to where a collection grows large."""
        if self is not CoarseCode.AUTO:
            return self
        return CoarseCode.INT8 if dim % 2 else CoarseCode.FOUR_BIT


_QUANTISED = (CoarseCode.INT8, CoarseCode.FOUR_BIT, CoarseCode.RABITQ, CoarseCode.PQ)


def is_quantised(code: CoarseCode, dtype: VectorDtype) -> bool:
    """Whether either keeps less than a float of each dimension."""
    return code in _QUANTISED or dtype is VectorDtype.INT8
