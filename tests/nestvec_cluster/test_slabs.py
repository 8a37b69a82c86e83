"""Which placement group holds a process, where several could."""

from __future__ import annotations

from nestvec.core.members import MemberRole
from nestvec_cluster.pieces import Group, Piece
from nestvec_cluster.slabs import Slab, covering, promised_nodes, slab_name, slab_named

_TAKES = {"CPU": 0.25}


def a_group(count: int, name: str = "docs/2-0") -> Group:
    pieces = [Piece(f"{name}.{number}", MemberRole.COARSE, {}) for number in range(count)]
    return Group(name, _TAKES, pieces)


def a_slab(
    first: int, count: int = 1, move: int = 0, group: str = "docs/2-0", on: str = "a"
) -> Slab:
    name = slab_name("nestvec-demo", group, first, _TAKES, move)
    return slab_named(name, count, nodes=frozenset({on}))


def test_a_name_says_all_that_there_is_to_know() -> None:
    name = slab_name("nestvec-demo", "docs/2-0", 1, _TAKES, move=3)
    found = slab_named(name, 2, placed=False)
    assert (found.name, found.group, found.first, found.count) == (name, "docs/2-0", 1, 2)
    assert (found.move, found.placed) == (3, False)
    first = slab_named(slab_name("nestvec-demo", "docs/2-0", 0, _TAKES), 2)
    assert (first.move, first.placed, first.shape) == (0, True, found.shape)


def test_the_last_move_of_a_piece_holds_in_whatever_order_ray_tells() -> None:
    both, once, twice = a_slab(0, 2), a_slab(1, move=1), a_slab(1, move=2)
    for there in ([both, once, twice], [twice, once, both]):
        assert covering(a_group(2), there) == {0: both, 1: twice}
    assert covering(a_group(2), [once, both]) == {0: both, 1: once}


def test_places_of_others_and_beyond_the_last_piece_hold_nothing() -> None:
    spare, other = a_slab(2, move=1), a_slab(0, 2, group="docs/2-1")
    assert covering(a_group(2), [a_slab(0, 3), spare, other]) == dict.fromkeys((0, 1), a_slab(0, 3))
    assert covering(a_group(3), [a_slab(0, 3), spare])[2] == spare
    larger = Group("docs/2-0", {"CPU": 1.0}, a_group(2).pieces)
    assert covering(larger, [a_slab(0, 2)]) == {}


def test_pieces_that_are_on_their_way_keep_their_new_nodes_to_themselves() -> None:
    there = [a_slab(0, 3), a_slab(1, move=1, on="b"), a_slab(1, move=2, on="c")]
    there.append(a_slab(2, move=1, on="d"))
    # Not where one was before its last move, and not where all stood first: they leave that.
    assert promised_nodes(a_group(3), 0, there) == {"c", "d"}
    assert promised_nodes(a_group(3), 1, there) == {"d"}
