"""Which documents are compared by their contents: those whose version a caller may have chosen."""

from __future__ import annotations

import random
from collections import Counter

from nestvec.core.clock import HybridClock
from nestvec.core.ports import StoredVersion
from nestvec.replication.contents import Doubtful
from nestvec.wall_clock import wall_clock_ms


def added(doubtful: Doubtful, names: range, version: int) -> Doubtful:
    for name in names:
        doubtful.add(StoredVersion(str(name), 1, version), StoredVersion(str(name), 2, version))
    return doubtful


def test_what_a_clock_has_made_is_passed_over() -> None:
    doubtful = Doubtful()
    added(doubtful, range(5), HybridClock(wall_clock_ms, 3).tick())
    added(doubtful, range(5, 8), 17)
    assert [(here.external_id, here.sequence, there.sequence) for here, there in doubtful.kept] == [
        ("5", 1, 2),
        ("6", 1, 2),
        ("7", 1, 2),
    ]


def test_of_very_many_each_is_kept_with_the_same_probability() -> None:
    kept: Counter[str] = Counter()
    for seed in range(400):
        doubtful = added(Doubtful(most=5, _random=random.Random(seed)), range(20), 17)
        assert len(doubtful.kept) == 5
        kept.update(here.external_id for here, _ in doubtful.kept)
    # 100 of each are to be expected; 4.5 standard deviations are 39.
    assert len(kept) == 20
    assert all(60 < times < 140 for times in kept.values()), kept
