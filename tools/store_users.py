"""Write the chart's rules for users of the bundled store from those that nestvec needs.

Run it after a change of adapters/redis_acl.py; a test fails where it was forgotten.
`#HASH-NAME` stands for the password under the key NAME of the chart's Secret: see start-redis.sh.
"""

from __future__ import annotations

from pathlib import Path

from nestvec.adapters.redis_acl import StoreRole, file_line, user_of

FILE = Path(__file__).parents[1] / "helm" / "nestvec" / "files" / "users.acl"
# Of everything that is no process of nestvec, or has no user of its own (redis.userPerRole: false).
_SHARED = "#HASH-password"
_OTHERS = (
    f"user replica on {_SHARED} resetkeys resetchannels -@all +psync +replconf +ping",
    f"user ray on {_SHARED} resetkeys ~RAY* ~DUMMY resetchannels -@all +@read +@write "
    "+@connection +@transaction -@dangerous +info +cluster|info +cluster|slots",
    "user probe on nopass resetkeys resetchannels -@all +ping",
)


def text() -> str:
    """The whole file."""
    lines = ["user default off", file_line(StoreRole.INGEST, "nestvec", "nestvec", _SHARED)]
    lines += [file_line(one, "nestvec", user_of(one), f"#HASH-{one}") for one in StoreRole]
    return "\n".join([*lines, *_OTHERS]) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
