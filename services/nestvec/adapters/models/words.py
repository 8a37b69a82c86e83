"""Token ids of plain texts, put together from words seen before.

A query is a few words, most of them asked before, and tokenizing it anew takes longer than all the
arithmetic on its vector. This covers printable ASCII under BERT's own rules, where words cannot
influence each other; everything else is the tokenizer's.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tokenizers import Tokenizer

# Printable ASCII without "[", which opens a special token such as [UNK].
_PLAIN = re.compile(r"[ -Z\\-~]*")
# BERT splits at blanks and makes every punctuation mark a word of its own.
_WORD = re.compile(r"[a-z0-9]+|[^a-z0-9 ]")
# About 200 bytes each.
_MOST_WORDS = 100_000


class WordTokens:
    """Remembers each word's token ids. Made by `of`, which tells whether the rules are BERT's."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> WordTokens | None:
        """None for a tokenizer under which a text is more than its words."""
        rules: dict[str, Any] = json.loads(tokenizer.to_str())
        normalizer, splitter = rules.get("normalizer") or {}, rules.get("pre_tokenizer") or {}
        is_bert = (
            normalizer.get("type") == "BertNormalizer"
            and normalizer.get("lowercase") is True
            and splitter.get("type") == "BertPreTokenizer"
            and rules["model"].get("type") == "WordPiece"
            and all(one["content"].startswith("[") for one in rules.get("added_tokens", []))
        )
        return cls(tokenizer) if is_bert else None

    def ids(self, text: str) -> list[int] | None:
        """The same ids as the tokenizer's, without special tokens; None for a text not covered."""
        if not _PLAIN.fullmatch(text):
            return None
        ids: list[int] = []
        for word in _WORD.findall(text.lower()):
            known = self._known.get(word)
            if known is None:
                known = self._tokenizer.encode(word, add_special_tokens=False).ids
                if len(self._known) < _MOST_WORDS:
                    self._known[word] = known
            ids += known
        return ids
