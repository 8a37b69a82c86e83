"""An encoder endpoint as the conformance suite sees it: what it is asked, and how it may fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nestvec.core.space import Role, Space

Row = NDArray[np.float64]

# Unit vectors further apart than this are not the same vector. fp16 inference moves one by about
# .001, bf16 by up to .01; 1% of noise is .01.
DEFAULT_TOLERANCE = 0.01
_LONG = " ".join(
    f"Step {number}: check the seal, note the pressure, and write down what the gauge shows."
    for number in range(1, 19)
)
TEXTS = (
    "How do I reset the password of my account?",
    "Open the settings, choose Security, and follow the link that is sent to your address.",
    "fog",
    "The heat transfer to a blunt body in hypersonic flow rises with the square root of density.",
    "Wie stelle ich die Heizung im Winter richtig ein?",
    "A contract ends when both sides have done what they promised.",
    "Bring the milk to the boil, take it off the heat, and stir in the chocolate: 200 g, chopped.",
    _LONG,
    "def mean(values): return sum(values) / len(values)",
    "Vitamin D deficiency is common among adults who spend little time outdoors.",
)


class EndpointFailed(Exception):
    """The endpoint did not answer what can be read: a time-out, a broken answer, an error."""


class DimensionRefused(EndpointFailed):
    """The endpoint says that it does not give the dimension asked for."""


class Endpoint(Protocol):
    """An encoder somewhere. It answers unit vectors, if it is right."""

    @property
    def applies_prompts(self) -> bool:
        """Whether it is told a text's role and puts the prompt in front itself."""
        ...

    @property
    def shortens(self) -> bool:
        """Whether it can be asked for a dimension."""
        ...

    def encode(self, texts: Sequence[str], role: Role, dim: int | None = None) -> list[Row]:
        """A row a vector, as they came: as many as there were, of whatever length.

        Raises EndpointFailed, and DimensionRefused where it says no to `dim`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined. space: what is known of the model; None where nothing is. announced: the
    space that the endpoint says it serves, where it can say so. reference: a trusted copy: (n, dim)
    unit vectors of texts in a role.
    """

    endpoint: Endpoint
    space: Space | None
    announced: Space | None = None
    reference: Callable[[Sequence[str], Role], NDArray[Any]] | None = None
    tolerance: float = DEFAULT_TOLERANCE


def ask(
    subject: Subject,
    texts: Sequence[str],
    dim: int | None = None,
    role: Role = Role.DOCUMENT,
) -> list[Row]:
    """As many rows as texts, of one length. Raises EndpointFailed otherwise, since nothing can be
    compared then.
    """
    rows = subject.endpoint.encode(texts, role, dim)
    if len(rows) != len(texts):
        raise EndpointFailed(f"{len(texts)} texts were answered with {len(rows)} vectors")
    return rows


def ask_all(subject: Subject) -> list[Row]:
    """Every text of the suite, as a document."""
    return ask(subject, TEXTS)


def unit_rows(rows: Sequence[Row]) -> NDArray[np.float64]:
    """(n, dim), at unit length. Raises EndpointFailed for rows of several dimensions."""
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise EndpointFailed(f"vectors of one answer have {listed(lengths)} dimensions")
    matrix = np.array(rows, np.float64)
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = matrix / np.where(norms > 0.0, norms, 1.0)
    return scaled


def apart(some: Sequence[Row], others: Sequence[Row]) -> float:
    """The largest distance between directions, row by row; infinite where there is none."""
    left, right = unit_rows(some), unit_rows(others)
    if left.shape != right.shape:
        return np.inf
    distances = np.linalg.norm(left - right, axis=1)
    return float(np.nan_to_num(distances, nan=np.inf).max())


def listed(numbers: Sequence[int] | set[int]) -> str:
    """For a message."""
    return ", ".join(map(str, sorted(numbers)))
