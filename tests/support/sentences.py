"""Distinct English sentences, for tests that index text and need no meaning in it."""

from itertools import product

_VERBS = ("reads", "writes", "sorts", "counts", "copies", "closes", "parses", "merges")
_THINGS = ("files", "lines", "tables", "sockets", "dates", "numbers", "archives", "messages")
_WAYS = ("slowly", "in parallel", "without a lock", "in order", "by name", "over the network")
_PLACES = ("in the library", "on the server", "for the user", "during the test")


def sentences(count: int) -> list[str]:
    """The same ones every time; at most 1,536."""
    every = [" ".join(words) for words in product(_VERBS, _THINGS, _WAYS, _PLACES)]
    # A step without a common factor mixes them.
    chosen = [f"A program {every[number * 601 % len(every)]}." for number in range(count)]
    assert len(set(chosen)) == count, f"only {len(every)} sentences"
    return chosen
