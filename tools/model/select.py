"""Which texts become pairs: a general half over all sources, and a half on what people search for.

The second half is drawn by patterns for science, engineering, medicine and everyday software, since
manuals alone would leave the words of those fields where the teacher's single tokens put them.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence

from nestvec.training.pairs import Pair
from tools.model.extract import Text

GENERAL = 53_248
TOPICAL = (60_000, 15_000, 10_000)
# Of what one source may give to the general half; 5,000 where nothing is said.
_CAPS = {
    "wordnet-base": 50_000,
    "dict-gcide": 30_000,
    "descriptions": 30_000,
    "dict-foldoc": 8_000,
    "dict-jargon": 2_000,
    "dict-vera": 1_500,
    "linux-doc-6.1": 6_000,
    "python3.11-doc": 6_000,
    "libreoffice-help-en-us": 8_000,
    "python-scipy-doc": 5_000,
    "postgresql-doc-15": 5_000,
    "grass-doc": 5_000,
    "python-biopython-doc": 1_500,
    "python-sklearn-doc": 6_000,
    "git-doc": 3_000,
    "apache2-doc": 4_000,
    "octave-doc": 3_000,
    "gmsh-doc": 800,
    "maxima-doc": 2_000,
}
_CAP = 5_000
_DOCUMENT_CHARS = 400
_SHORTEST = 30
_LONGEST_TITLE = 160
_LETTERS = 0.75
_NOTHING_SAID = re.compile(
    r"transitional|dummy package|debug symbols|development files"
    r"|This package contains the (doc|dev)"
)
_SCIENCE = re.compile(
    r"protein|genom|\bgene|\bDNA|\bRNA|\bcell|medic|clinic|patient|disease|molecul|chemi|biolog"
    r"|physic|flow|fluid|pressure|aerodynam|wing|heat|therm|wave|stress|elastic|cancer|tumou?r"
    r"|virus|bacteri|blood|brain|neur|immun|drug|dose|statistic|hypothes|species|evolution"
    r"|turbulen|boundary layer|shock|supersonic|aircraft|mach number|vibrat|temperature|diffus"
    r"|mortality|risk|therapy|infect|muscle|bone|heart|liver|kidney|acid|enzyme|hormone|tissue"
    r"|membrane",
    re.IGNORECASE,
)
_SOFTWARE = re.compile(
    r"\b(account|e-?mail|password|browser|web ?site|google|facebook|twitter|calendar|contact|photo"
    r"|video|chat|message|notification|search|spreadsheet|document|login|sign in|profile|share"
    r"|privacy|download|upload|link|blog|feed|RSS|tag|label|filter|spam|attachment|folder|sync"
    r"|online|internet)\b",
    re.IGNORECASE,
)
# GCIDE's own labels of fields.
_LABELS = re.compile(
    r"\((Med|Anat|Biol|Zo|Bot|Chem|Phys|Physiol|Mech|Math|Geol|Min|Astron|Physics)"
)
_SCIENCE_MANUALS = frozenset((
    "python-sklearn-doc", "python-scipy-doc", "python-biopython-doc", "octave-doc", "gmsh-doc",
    "kstars-data", "kalzium-data", "grass-doc",
))  # fmt: skip


def select(texts: Sequence[Text], fields: dict[str, int]) -> list[Pair]:
    """The pairs, in the order in which they are encoded. fields: gloss to WordNet's file number."""
    general = _general(texts)[:GENERAL]
    taken = {pair.document for pair in general}
    return general + _topical(texts, fields, taken)


def _general(texts: Sequence[Text]) -> list[Pair]:
    generator = random.Random(7)
    shuffled = list(texts)
    generator.shuffle(shuffled)
    counts: Counter[str] = Counter()
    pairs = []
    for text in shuffled:
        title = _title(text)
        # The share of letters is that of the whole text, as is its length.
        if not _is_prose(title, text.body) or counts[text.source] >= _CAPS.get(text.source, _CAP):
            continue
        if text.source == "descriptions" and re.search(
            r"transitional|dummy package|debug symbols|development files"
            r"|This package contains the documentation",
            text.body + title,
        ):
            continue
        counts[text.source] += 1
        pairs.append(Pair(title, _cut(text.body)))
    generator.shuffle(pairs)
    return pairs


def _topical(texts: Sequence[Text], fields: dict[str, int], taken: set[str]) -> list[Pair]:
    generator = random.Random(3)
    groups: tuple[list[Pair], list[Pair], list[Pair]] = ([], [], [])
    for text in texts:
        pair = Pair(_title(text), _cut(text.body))
        if pair.document in taken or not _is_prose(*pair):
            continue
        if text.source == "descriptions" and _NOTHING_SAID.search(text.body + pair.query):
            continue
        if (group := _group(text, pair, fields)) is not None:
            groups[group].append(pair)
    for pairs in groups:
        generator.shuffle(pairs)
    chosen = [pair for pairs, count in zip(groups, TOPICAL, strict=True) for pair in pairs[:count]]
    generator.shuffle(chosen)
    return chosen


# WordNet's files of nouns (lexnames(5WN)) that science and everyday things are in.
_FIELDS = frozenset((4, 5, 6, 7, 8, 9, 11, 13, 17, 19, 20, 22, 23, 26, 27))


def _group(text: Text, pair: Pair, fields: dict[str, int]) -> int | None:
    """0 for science, 1 for software as people use it, 2 for the rest; None for too short a text."""
    science = len(_SCIENCE.findall(pair.document))
    software = len(_SOFTWARE.findall(pair.document))
    if text.source == "wordnet-base":
        return 0 if fields.get(text.body) in _FIELDS else 2
    if text.source == "dict-gcide":
        return 0 if science or _LABELS.search(pair.document) else 2
    if text.source == "descriptions":
        return 0 if science >= 2 else 1 if software >= 2 else 2
    if text.source in _SCIENCE_MANUALS:
        return None if len(pair.document) <= 100 else 0 if science else 2
    if len(pair.document) <= 80:
        return None
    return 1 if pair.query.endswith("?") or software >= 3 else 2


def _title(text: Text) -> str:
    return re.sub(r"^(Navigation: |: )", "", text.title)


def _is_prose(title: str, body: str) -> bool:
    letters = sum(one.isalpha() or one == " " for one in body)
    return (
        len(title) <= _LONGEST_TITLE and len(body) >= _SHORTEST and letters >= _LETTERS * len(body)
    )


def _cut(body: str) -> str:
    """Up to the last sentence that ends within _DOCUMENT_CHARS, or the last word."""
    if len(body) <= _DOCUMENT_CHARS:
        return body
    start = body[:_DOCUMENT_CHARS]
    end = max(start.rfind(". "), start.rfind("; "))
    return start[: end + 1] if end > _DOCUMENT_CHARS // 2 else start[: start.rfind(" ")]
