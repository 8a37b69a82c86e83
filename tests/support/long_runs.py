"""What takes too long for every run: `make soak` runs it."""

from __future__ import annotations

import os

import pytest

LONG = os.environ.get("NESTVEC_FAULT_LONG") == "1"
takes_long = pytest.mark.skipif(
    not LONG,
    reason="takes most of a minute: make soak, or NESTVEC_FAULT_LONG=1",
)
