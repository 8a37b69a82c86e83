"""Words put together give the ids that the tokenizer gives for the whole text."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

import nestvec.adapters.models.static as static
from nestvec.adapters.models.words import WordTokens

FOLDER = Path(static.__file__).parents[2] / "models" / "default"
PRINTABLE = "".join(chr(code) for code in range(32, 127))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    loaded = Tokenizer.from_file(str(FOLDER / static.TOKENIZER_FILE))
    loaded.no_truncation()
    loaded.no_padding()
    return loaded


def whole(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


@given(text=st.text(alphabet=PRINTABLE.replace("[", ""), max_size=80))
def test_any_plain_text_has_the_tokenizers_own_ids(tokenizer: Tokenizer, text: str) -> None:
    words = WordTokens.of(tokenizer)
    assert words is not None
    assert words.ids(text) == whole(tokenizer, text)
    assert words.ids(text) == whole(tokenizer, text), "and again, from what is remembered"


@pytest.mark.parametrize(
    "text",
    [
        "How do I parse a date?",
        "a_b-c.d/e@f",
        "x" * 101,
        "unaffable " * 30,
        string.punctuation.replace("[", ""),
        "don't stop-me now...",
        "",
        "   ",
    ],
)
def test_real_texts_have_the_tokenizers_own_ids(tokenizer: Tokenizer, text: str) -> None:
    words = WordTokens.of(tokenizer)
    assert words is not None
    assert words.ids(text) == whole(tokenizer, text)


@pytest.mark.parametrize("text", ["naïve", "[UNK] here", "tab\there", "日本", "line\nend", "\x00"])
def test_what_words_alone_do_not_decide_is_left_to_the_tokenizer(
    tokenizer: Tokenizer, text: str
) -> None:
    words = WordTokens.of(tokenizer)
    assert words is not None
    assert words.ids(text) is None


def test_a_tokenizer_of_other_rules_is_left_alone(tokenizer: Tokenizer) -> None:
    other = Tokenizer.from_str(tokenizer.to_str().replace('"lowercase":true', '"lowercase":false'))
    assert WordTokens.of(other) is None
