"""How FAISS makes each coarse code.

A product quantiser is kept as one inverted list, since only then does it take an IDSelector.

Sources: 4-bit fast-scan, André et al. 2017, arXiv 1704.07355; RaBitQ, Gao & Long 2024,
arXiv 2405.12497; product quantisation, Jégou et al. 2011, doi 10.1109/TPAMI.2010.57.
"""

from __future__ import annotations

from dataclasses import dataclass

from nestvec.core.codes import CoarseCode

# k-means needs so many points a centroid; FAISS warns of fewer.
_ROWS_PER_CENTROID = 39
# FAISS keeps an int64 id with each row of a list.
_ID_BYTES = 8
# Of each row of RaBitQ: two float32, which correct its estimate.
_RABITQ_BYTES = 8
# Dimensions that one byte of a product quantiser stands for.
PQ_DIMS = 8

# Kinds that hold the rows as they are: made again faster than read.
UNTRAINED = ("flat", "sq8", "sqfp16")


@dataclass(frozen=True, slots=True)
class Recipe:
    """factory: as faiss.index_factory reads it. kind: as a segment's label has it. least_rows: too
    few to train on are scanned exactly. bytes_per_row: codes, and ids where a list keeps them.
    """

    factory: str
    kind: str
    least_rows: int
    bytes_per_row: int


def recipe(code: CoarseCode, dim: int) -> Recipe | None:
    """Of prefixes of `dim`. None where the code does not divide them."""
    code = code.applied(dim)
    if code is CoarseCode.FP32:
        return Recipe("Flat", "flat", 1, 4 * dim)
    if code is CoarseCode.FP16:
        return Recipe("SQfp16", "sqfp16", 1, 2 * dim)
    if code is CoarseCode.INT8:
        return Recipe("SQ8", "sq8", 1, dim)
    if code is CoarseCode.RABITQ:
        # Not as a list: over inner products, FAISS 1.15 then errs nearly twice as much.
        return Recipe(f"RR{dim},RaBitQ", "rabitq", 1, (dim + 7) // 8 + _RABITQ_BYTES)
    if code is CoarseCode.FOUR_BIT:
        return None if dim % 2 else _product(f"PQ{dim // 2}x4fs", 16, dim // 4)
    return None if dim % PQ_DIMS else _product(f"PQ{dim // PQ_DIMS}x8", 256, dim // PQ_DIMS)


def segment_recipe(code: CoarseCode, dim: int, rows: int, exact_rows: int) -> Recipe:
    """Of a segment of so many rows, where there is no GPU: scanned exactly below `exact_rows` and
    where it is too small to train on. A code that does not divide the prefix is one byte a
    dimension instead.
    """
    chosen = recipe(code, dim) or recipe(CoarseCode.INT8, dim)
    exact = recipe(CoarseCode.FP32, dim)
    assert chosen is not None
    assert exact is not None
    return exact if rows < max(exact_rows, chosen.least_rows) else chosen


def bytes_per_row(kind: str, dim: int) -> int | None:
    """Of an index of this kind; None for one that is not made here."""
    recipes = (recipe(code, dim) for code in CoarseCode)
    return next((one.bytes_per_row for one in recipes if one and one.kind == kind), None)


def _product(name: str, centroids: int, code_bytes: int) -> Recipe:
    return Recipe(
        f"IVF1,{name}", name.lower(), centroids * _ROWS_PER_CENTROID, code_bytes + _ID_BYTES
    )
