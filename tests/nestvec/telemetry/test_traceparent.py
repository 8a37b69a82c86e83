"""What a caller writes into `traceparent` and `tracestate` is read as W3C says, or ignored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.telemetry.traceparent import Remote, read_remote, remote_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def test_the_example_of_the_specification_is_read() -> None:
    remote = read_remote(PARENT)
    assert remote == Remote(int(TRACE, 16), int(SPAN, 16), sampled=True)
    assert remote.header == PARENT
    unsampled = read_remote(f"00-{TRACE}-{SPAN}-00")
    assert unsampled is not None
    assert not unsampled.sampled


def test_other_flags_and_later_versions_are_read_as_far_as_they_are_known() -> None:
    later = read_remote(f"cc-{TRACE}-{SPAN}-03-what-the-future-will-be-like")
    assert later is not None
    assert later.header == PARENT


@pytest.mark.parametrize(
    "hostile",
    [
        "",
        "00",
        PARENT.upper(),
        PARENT + "\n",
        " " + PARENT,
        PARENT + "-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-zz",
        f"00-{TRACE[:-1]}٣-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01".replace("-", "_"),
        f"cc-{TRACE}-{SPAN}-01-" + "a" * 100_000,
        "'; drop table spans; --",
    ],
)
def test_what_is_no_traceparent_is_ignored(hostile: str) -> None:
    assert read_remote(hostile) is None


@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{31,33}-[0-9a-f]{15,17}-0[01]"))
def test_anything_is_read_or_ignored_and_nothing_raises(text: str) -> None:
    remote = read_remote(text, text)
    if remote is not None and text.startswith("00"):
        assert remote.header == text


def test_a_sound_tracestate_is_passed_on_and_others_are_dropped() -> None:
    sound = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE,4team@vendor=a b"
    assert read_remote(PARENT, sound) == Remote(int(TRACE, 16), int(SPAN, 16), True, sound)
    for hostile in (
        "rojo",
        "rojo=",
        "Rojo=1",
        "rojo=1,rojo=2",
        "rojo=a,b=\x00",
        "rojo=1=2",
        "rojo=" + "x" * 600,
        ",".join(f"k{n}=1" for n in range(33)),
        "rojo=日",
    ):
        remote = read_remote(PARENT, hostile)
        assert remote is not None, hostile
        assert remote.state == "", hostile


def test_metadata_with_two_traceparents_names_none() -> None:
    one = ("traceparent", PARENT)
    assert remote_of([("x-request-id", "7"), one]) is not None
    assert remote_of([one, one]) is None
    assert remote_of([("traceparent", b"\x00\xff")]) is None
    assert remote_of([]) is None
    both = remote_of([one, ("tracestate", "a=1"), ("tracestate", "b=2"), ("tracestate", b"c")])
    assert both is not None
    assert both.state == "a=1,b=2"
