"""Under which headings numbers are kept in the store, beside a collection."""

from __future__ import annotations

from nestvec.core.shadowing import SHADOW

PROGRESS = "progress"
# Under `copied` and `copied_from`, beside the positions: how many documents up to there could not
# be carried over.
REFUSED = "refused"

# How far other regions were followed: see the fields below. Read by every process of this region.
REGIONS = "regions"
# Whether the collection was ever here: one that was dropped is not made again.
MADE = "made"
# Beside positions: which two generations they are of.
PAIR = "pair"
# Beside positions: the number of the generation there that they are of.
FOLLOWED = "followed"


def copied(source: int, sink: int) -> str:
    """How far one generation was copied into another: partition -> sequence."""
    return f"copied-{source}-{sink}"


def passing_headings(source: int, target: int) -> list[str]:
    """What is of no use once a migration has ended."""
    return [SHADOW, copied(source, target), copied(target, source)]


def copied_from(region: str) -> str:
    """How far a collection was copied from another region: partition -> sequence there."""
    return f"from-{region}"


def whole_at(region: str) -> str:
    """Under REGIONS: all that was written there up to then is here; milliseconds since 1970 by the
    clocks of this region. 0: never yet.
    """
    return f"{region}.whole"


def told_at(region: str) -> str:
    """Under REGIONS: all that was written here up to then is there; as whole_at."""
    return f"{region}.told"


def lag_of(region: str) -> str:
    """Under REGIONS: changes there that are not here."""
    return f"{region}.lag"


def refused_of(region: str) -> str:
    """Under REGIONS: documents of there that cannot be carried over."""
    return f"{region}.refused"


def bytes_of(region: str) -> str:
    """Under REGIONS: bytes of documents that came from there."""
    return f"{region}.bytes"


def waiting_of(region: str) -> str:
    """Under REGIONS: 1 while copying from there waits for something."""
    return f"{region}.waiting"
