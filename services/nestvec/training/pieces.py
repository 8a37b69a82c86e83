"""Pairs from texts alone: a piece of a text asks for that text.

A team has documents before it has judgments. The inverse cloze task of Lee et al. 2019, arXiv
1906.00300.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nestvec.training.pairs import Pair

# In words: about what people write into a search box.
_SHORTEST, _LONGEST = 5, 16
# A text gives a piece for every so many words.
LEAST_WORDS = 20


def pieces_of(texts: Sequence[str], most: int, seed: int) -> list[Pair]:
    """Up to `most` pairs a text, in the texts' order; of a text of fewer than LEAST_WORDS none.

    The query is 5 to 16 words as they stand in the text, and the document the whole text, so that
    a text's pairs are known to belong together. The same seed draws the same pieces.
    """
    generator = np.random.default_rng(seed)
    pairs = []
    for text in texts:
        words = text.split()
        for _ in range(min(most, len(words) // LEAST_WORDS)):
            length = min(int(generator.integers(_SHORTEST, _LONGEST + 1)), len(words) // 2)
            start = int(generator.integers(0, len(words) - length + 1))
            pairs.append(Pair(" ".join(words[start : start + length]), text))
    return list(dict.fromkeys(pairs))
