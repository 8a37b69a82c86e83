"""Pairs from texts alone."""

from __future__ import annotations

from nestvec.training.pieces import LEAST_WORDS, pieces_of


def _text(name: str, words: int) -> str:
    return " ".join(f"{name}{i}" for i in range(words))


def test_a_piece_stands_in_its_text_and_names_all_of_it() -> None:
    texts = [_text("a", 200), _text("b", 45), _text("c", LEAST_WORDS)]
    pairs = pieces_of(texts, 6, 0)
    assert [sum(pair.document == text for pair in pairs) for text in texts] == [6, 2, 1]
    for pair in pairs:
        assert f" {pair.query} " in f" {pair.document} "
        assert 5 <= len(pair.query.split()) <= min(16, len(pair.document.split()) // 2)


def test_pieces_differ_and_the_seed_decides() -> None:
    texts = [_text("a", 1_000)]
    first, again, other = (pieces_of(texts, 40, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len({pair.query for pair in first}) == len(first)
    assert len({len(pair.query.split()) for pair in first}) > 5


def test_what_is_too_short_gives_none() -> None:
    assert pieces_of([_text("a", LEAST_WORDS - 1), "", " \n "], 6, 0) == []


def test_a_text_twice_gives_no_pair_twice() -> None:
    text = " ".join(["same"] * 40)
    pairs = pieces_of([text, text], 50, 0)
    assert len(pairs) == len(set(pairs))
