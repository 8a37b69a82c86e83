"""What a token counts for by where it stands: a text says early what it is about."""

from __future__ import annotations

import numpy as np

from nestvec.core.arrays import Floats

# Tokens behind this many count as the last one before: a table of them is 256 KB.
FURTHEST = 65_536


def lead_weights(count: int, lead: float) -> Floats:
    """(count,) float32: 1 / sqrt(1 + position / lead), or 1 each without a lead.

    lead: in tokens; at three times as many a token counts for half of what the first does. 0: none.
    """
    if not lead:
        return np.ones(count, np.float32)
    positions = np.minimum(np.arange(count), FURTHEST - 1)
    weights: Floats = (1.0 / np.sqrt(1.0 + positions / lead)).astype(np.float32)
    return weights
