"""What takes too long for every run: `make soak` runs it."""

from __future__ import annotations

import os

import pytest

LONG = os.environ.get("NESTVEC_FAULT_LONG") == "1"
takes_long = pytest.mark.skipif(
    not LONG,
    reason="takes most of a minute: make soak, or NESTVEC_FAULT_LONG=1",
)


def examples(count: int) -> int:
    """How many hypothesis shall try, where each takes long: all of them in `make soak` only."""
    return count if LONG else max(count // 4, 5)
