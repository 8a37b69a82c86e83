"""What a new generation must show before it serves."""

from __future__ import annotations

from collections.abc import Mapping

from nestvec.core.migration import Gate, GateKind

_NAMED = 5


def complete_gate(documents: int, refused: Mapping[str, str]) -> Gate:
    """documents: in the new generation. refused: external id -> why it is not there."""
    if not refused:
        return Gate(GateKind.COMPLETE, True, f"{documents:,} documents, all of them")
    shown = "; ".join(f"{name!r}: {why}" for name, why in list(refused.items())[:_NAMED])
    more = f" and {len(refused) - _NAMED:,} more" if len(refused) > _NAMED else ""
    return Gate(
        GateKind.COMPLETE,
        False,
        f"{documents:,} documents; {len(refused):,} cannot be carried over: {shown}{more}",
    )
