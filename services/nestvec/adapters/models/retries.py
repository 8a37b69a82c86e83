"""When to ask an endpoint again: a bounded number of times, later each time, or when it says so."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class Retries:
    """attempts: tries in all. backoff_s: the first pause, doubled each time. longest_wait_s: of
    any one pause, whoever asks for it.
    """

    attempts: int
    backoff_s: float
    longest_wait_s: float

    def pause_s(self, attempt: int, asked_s: float | None) -> float:
        """Seconds to wait before try number `attempt`, counted from 0.

        asked_s: what the other side asked for after the try before, if it did. Otherwise the pause
        has jitter, so that clients that failed together do not return together.
        """
        if attempt == 0:
            return 0.0
        backoff_s = self.backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
        return min(backoff_s if asked_s is None else asked_s, self.longest_wait_s)


def wait_asked_for(retry_after: str | None) -> float | None:
    """Seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3); None without one."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):  # no date, or one without a zone
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
