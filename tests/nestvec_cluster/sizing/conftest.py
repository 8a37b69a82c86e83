"""Plans to be sized."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nestvec.core.collection import Collection
from nestvec.core.space import Space
from nestvec_cluster.sizing.plan import Plan, documents_like

SPACE = Space("a-model", 768, trained_dims=(64, 128, 256, 512, 768))
MakePlan = Callable[..., Plan]


@pytest.fixture
def a_plan() -> MakePlan:
    """A plan of a million documents; `collection` takes fields of a Collection."""

    def make(count: int = 1_000_000, collection: dict[str, Any] | None = None, **more: Any) -> Plan:
        made: dict[str, Any] = {"store_dim": 768, "tiers": (128, 256)} | (collection or {})
        more.setdefault("documents", documents_like(count, 16, 200))
        return Plan(Collection("docs", SPACE, **made), **more)

    return make
