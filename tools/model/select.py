"""Which texts the teacher is asked for, and which become pairs.

Both are drawn from shares of sources: descriptions of packages and WordNet would otherwise be all.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence

from nestvec.training.pairs import Pair
from tools.model.extract import Text

# Of 26 texts; `manuals` are all sources that are not named.
_SHARES = {
    "descriptions": 6,
    "wordnet-base": 4,
    "ontology": 9,
    "synonym": 1,
    "dict-gcide": 1,
    "linux-doc-6.1": 1,
    "manuals": 4,
}
_DEFINITIONS = ("wordnet-base", "ontology", "synonym")
_LEAST_CHARS, _LONGEST_TITLE = 25, 200
# Of letters and spaces: what has fewer is code or a table.
_LETTERS = 0.75
_NOTHING_SAID = re.compile(
    r"transitional|dummy package|debug symbols|development files"
    r"|This package contains the (doc|dev)"
)
# In words: about what people write into a search box, up to a sentence or two.
_SHORTEST_CROP, _LONGEST_CROP = 6, 24
_TITLE_WORDS = 8
# A title of fewer words teaches little more than its words themselves.
_TELLING = 4
_TITLED = 0.7
_DOCUMENT_WORDS = 110
# A text of so many words is long enough that a part of it asks for the rest.
_LEAST_WORDS = 28
_CROPPED = 0.6


def draw(texts: Iterable[Text], seed: int) -> list[Text]:
    """Prose, each source as its share says for as long as it has any: the first of them are a fair
    choice. The order in which `texts` come does not matter.
    """
    generator = random.Random(seed)
    sources: dict[str, list[Text]] = {name: [] for name in _SHARES}
    for text in texts:
        if _is_prose(text):
            sources[text.source if text.source in _SHARES else "manuals"].append(text)
    for some in sources.values():
        some.sort()
        generator.shuffle(some)
    turns = [name for name, share in _SHARES.items() for _ in range(share)]
    drawn = []
    while any(sources.values()):
        generator.shuffle(turns)
        drawn += [sources[name].pop() for name in turns if sources[name]]
    return drawn


def shorts(texts: Sequence[Text], seed: int) -> Iterator[str]:
    """What the teacher is asked for, one of each text: a part of it; of a definition its beginning,
    mostly with the term in front; now and then a title that says something.
    """
    generator = random.Random(seed)
    for text in texts:
        words = text.body.split()
        length = generator.randint(_SHORTEST_CROP, _LONGEST_CROP)
        if text.source in _DEFINITIONS:
            title = text.title.split()[:_TITLE_WORDS] if generator.random() < _TITLED else []
            yield " ".join([*title, *words[:length]])
        elif len(text.title.split()) >= _TELLING and generator.random() >= _TITLED:
            yield text.title
        else:
            start = generator.randint(0, max(len(words) - length, 0))
            yield " ".join(words[start : start + length])


def pairs(texts: Sequence[Text], seed: int) -> Iterator[Pair]:
    """Title and text; or a part of a text, and the title with the rest of it."""
    generator = random.Random(seed)
    for text in texts:
        words = text.body.split()
        if len(words) >= _LEAST_WORDS and generator.random() < _CROPPED:
            length = generator.randint(_SHORTEST_CROP, _LONGEST_CROP // 2 + 2)
            start = generator.randint(0, len(words) - length)
            query = " ".join(words[start : start + length])
            words = [*text.title.split(), *words[:start], *words[start + length :]]
        else:
            query = text.title
        yield Pair(query, " ".join(words[:_DOCUMENT_WORDS]))


def _is_prose(text: Text) -> bool:
    letters = sum(one.isalpha() or one == " " for one in text.body)
    return (
        len(text.title) <= _LONGEST_TITLE
        and len(text.body) >= _LEAST_CHARS
        and letters >= _LETTERS * len(text.body)
        and not (text.source == "descriptions" and _NOTHING_SAID.search(text.body + text.title))
    )
