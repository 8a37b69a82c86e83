"""The checks of the conformance suite. Each says what it found, or raises what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nestvec.core.space import Role, Space
from nestvec.quality.endpoint import (
    TEXTS,
    DimensionRefused,
    Row,
    Subject,
    apart,
    ask,
    ask_all,
    listed,
    unit_rows,
)

_UNIT_TOLERANCE = 1e-3
# The cosine to (1, 1, ...): a layer-norm makes it nothing, others have about dim ** -.5.
_NO_MEAN = 1e-2
_SUSPICIOUSLY_NO_MEAN = 1e-4
_REPEATS = 3


class CheckFailed(Exception):
    """A check found a fault; its text says which."""


class CheckSkipped(Exception):
    """A check cannot be decided; its text says what it lacks."""


# --- the checks ---------------------------------------------------------------------------------


def check_answers(subject: Subject) -> str:
    """It answers at all."""
    rows = subject.endpoint.encode(TEXTS[:1], Role.DOCUMENT)
    return f"{len(rows)} vector of {len(rows[0]) if rows else 0} dimensions"


def check_counts(subject: Subject) -> str:
    """One vector a text."""
    for count in (1, 2, len(TEXTS)):
        rows = subject.endpoint.encode(TEXTS[:count], Role.DOCUMENT)
        if len(rows) != count:
            raise CheckFailed(f"{count} texts were answered with {len(rows)} vectors")
    return f"one vector a text, for up to {len(TEXTS)} texts"


def check_finite(subject: Subject) -> str:
    """No NaN, nothing infinite, no zero vectors."""
    for number, row in enumerate(ask_all(subject)):
        if not np.isfinite(row).all():
            raise CheckFailed(f"the vector of text {number} has NaN or infinite values")
        if not row.any():
            raise CheckFailed(f"the vector of text {number} is all zero")
    return "every value is finite"


def check_one_dimension(subject: Subject) -> str:
    """One dimension, in and across answers, and the card's."""
    lengths = {len(row) for row in ask_all(subject)}
    lengths |= {len(row) for text in TEXTS[:3] for row in ask(subject, (text,))}
    if len(lengths) > 1:
        raise CheckFailed(f"vectors of one model have {listed(lengths)} dimensions")
    (dim,) = lengths
    if subject.space is not None and dim != subject.space.dim:
        raise CheckFailed(f"vectors have {dim} dimensions, the card says {subject.space.dim}")
    return f"{dim} dimensions, always"


def check_unit_length(subject: Subject) -> str:
    """Full vectors are normalised."""
    norms = [float(np.linalg.norm(row)) for row in ask_all(subject)]
    if not all(abs(norm - 1.0) <= _UNIT_TOLERANCE for norm in norms):
        raise CheckFailed(
            f"lengths from {min(norms):.4g} to {max(norms):.4g}, expected 1: the output is not "
            f"normalised"
        )
    return "unit length"


def check_deterministic(subject: Subject) -> str:
    """The same question has the same answer."""
    answers = [ask_all(subject) for _ in range(_REPEATS)]
    worst = max(apart(answers[0], other) for other in answers[1:])
    _require_near(worst, subject, "the same texts, asked again, give other vectors")
    return f"asked {_REPEATS} times, vectors move by {worst:.2g} at most"


def check_independent_of_batch(subject: Subject) -> str:
    """A text has its vector whatever stands beside it, in the order asked."""
    together = ask_all(subject)
    alone = [ask(subject, (text,))[0] for text in TEXTS]
    backwards = ask(subject, TEXTS[::-1])[::-1]
    worst = max(apart(together, alone), apart(together, backwards))
    _require_near(worst, subject, "a text's vector depends on the texts beside it, or on its place")
    return f"alone, in a batch or in another order, vectors move by {worst:.2g} at most"


def check_distinct(subject: Subject) -> str:
    """Different texts have different vectors."""
    rows = unit_rows(ask_all(subject))
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -1.0)
    nearest = float(cosines.max())
    if not nearest < 1.0 - 1e-6:
        raise CheckFailed("two texts that have nothing in common have one vector")
    return f"different texts differ: the nearest two have a cosine of {nearest:.3f}"


def check_announced(subject: Subject) -> str:
    """What it says of itself is what the card says."""
    announced, space = subject.announced, subject.space
    if announced is None:
        raise CheckSkipped("the protocol says nothing of the model")
    if space is None or space is announced:
        raise CheckSkipped("no card to hold it against; give --card")
    for what in ("dim", "trained_dims", "recipe", "prompts"):
        said, known = getattr(announced, what), getattr(space, what)
        if said != known:
            raise CheckFailed(f"it announces {what} {said}, the card says {known}")
    return "what it announces is what the card says"


def check_recipe(subject: Subject) -> str:
    """The card's layer-norm, and no other."""
    if subject.space is None:
        raise CheckSkipped("no card says whether there is a layer-norm; give --card")
    rows = unit_rows(ask_all(subject))
    means = np.abs(rows.sum(axis=1)) / np.sqrt(rows.shape[1])
    if subject.space.recipe.layer_norm:
        if not means.max() <= _NO_MEAN:
            raise CheckFailed(
                f"the card says layer-norm, but coordinates do not add up to nothing "
                f"(cosine to their mean {means.max():.3f}): the layer-norm was left out"
            )
        return "layer-norm was applied"
    if means.max() < _SUSPICIOUSLY_NO_MEAN:
        raise CheckFailed(
            "the card says no layer-norm, but every vector has a mean of exactly zero"
        )
    return "no layer-norm was applied, as the card says"


def check_shortened(subject: Subject) -> str:
    """Trained tiers; of a model without a card, half of its dimensions."""
    if not subject.endpoint.shortens:
        raise CheckSkipped("the protocol gives full vectors only; nestvec cuts them itself")
    full = unit_rows(ask_all(subject))
    dim = full.shape[1]
    trained = subject.space.trained_dims if subject.space is not None else (dim // 2, dim)
    given = []
    for tier in trained:
        if tier >= dim:
            continue
        try:
            rows = ask(subject, TEXTS, tier)
        except DimensionRefused:
            continue
        _check_cut(rows, full, tier, subject)
        given.append(tier)
    if not given:
        raise CheckSkipped("it refuses to shorten; nestvec cuts full vectors itself")
    return f"shortened to {listed(given)}: the prefix, at unit length"


def check_untrained(subject: Subject) -> str:
    """A dimension that was never trained is refused."""
    if not subject.endpoint.shortens:
        announced = subject.announced
        if announced is None or subject.space is None or announced is subject.space:
            raise CheckSkipped(
                "it cannot be asked for a dimension, and no card says which are trained"
            )
        wrong = set(announced.trained_dims) - set(subject.space.trained_dims)
        if wrong:
            raise CheckFailed(f"it announces tiers that the card does not: {listed(wrong)}")
        return "it announces no untrained tier"
    if subject.space is None or len(subject.space.trained_dims) < 2:
        raise CheckSkipped("no card says which dimensions are trained; give --card")
    for tier in _never_trained(subject.space):
        try:
            rows = ask(subject, TEXTS[:1], tier)
        except DimensionRefused:
            continue
        given = len(rows[0])
        raise CheckFailed(
            f"asked for {tier} dimensions, which were never trained, it gives {given} without a "
            f"word; trained: {listed(subject.space.trained_dims)}"
        )
    return "untrained dimensions are refused"


def check_prompts(subject: Subject) -> str:
    """Where one prompt is empty, a text that brings the other one along must give its vector."""
    if not subject.endpoint.applies_prompts:
        raise CheckSkipped("the caller puts prompts in front; see `reference`")
    if subject.space is None:
        raise CheckSkipped("no card says which prompts there are; give --card")
    prompts = subject.space.prompts
    asked = ask(subject, TEXTS, role=Role.QUERY)
    kept = ask(subject, TEXTS, role=Role.DOCUMENT)
    if prompts.query == prompts.document:
        worst = apart(asked, kept)
        _require_near(worst, subject, "there is one prompt, but queries and documents differ")
        return "one prompt for both roles"
    if apart(asked, kept) <= subject.tolerance / 10:
        raise CheckFailed("prompts differ, but a query and a document of one text have one vector")
    if prompts.query and prompts.document:
        raise CheckSkipped("both roles have a prompt: which is which only a --reference can tell")
    if prompts.query:
        bare, wanted, prompt = Role.DOCUMENT, asked, prompts.query
    else:
        bare, wanted, prompt = Role.QUERY, kept, prompts.document
    brought = ask(subject, [prompt + text for text in TEXTS], role=bare)
    worst = apart(brought, wanted)
    _require_near(worst, subject, "the prompts are not where the card has them: swapped, or wrong")
    return "each role has its own prompt"


def check_reference(subject: Subject) -> str:
    """A trusted copy's vectors."""
    if subject.reference is None:
        raise CheckSkipped("no trusted copy to compare with; give --reference")
    worst = 0.0
    for role in Role:
        given = ask(subject, TEXTS, role=role)
        wanted = list(subject.reference(TEXTS, role))
        if len(given[0]) != len(wanted[0]):
            raise CheckFailed(
                f"vectors have {len(given[0])} dimensions, the reference has {len(wanted[0])}"
            )
        here = apart(given, wanted)
        if not here <= subject.tolerance:
            other = Role.DOCUMENT if role is Role.QUERY else Role.QUERY
            swapped = apart(given, list(subject.reference(TEXTS, other))) <= subject.tolerance
            reason = f"they are those of a {other}: the prompts are swapped" if swapped else (
                "other weights, prompts, pooling or recipe"
            )  # fmt: skip
            raise CheckFailed(
                f"a {role}'s vectors are {here:.3g} from the reference's, at most "
                f"{subject.tolerance:g} is allowed: {reason}"
            )
        worst = max(worst, here)
    return f"vectors are those of the reference, to {worst:.2g}"


# --- comparing ------------------------------------------------------------------------------------


def _require_near(worst: float, subject: Subject, fault: str) -> None:
    if not worst <= subject.tolerance:
        raise CheckFailed(f"{fault} ({worst:.3g} apart, at most {subject.tolerance:g} is allowed)")


def _check_cut(rows: Sequence[Row], full: NDArray[np.float64], tier: int, subject: Subject) -> None:
    lengths = {len(row) for row in rows}
    if lengths != {tier}:
        raise CheckFailed(f"asked for {tier} dimensions, it gives {listed(lengths)}")
    norms = np.linalg.norm(np.array(rows), axis=1)
    if not np.abs(norms - 1.0).max() <= _UNIT_TOLERANCE:
        raise CheckFailed(
            f"at {tier} dimensions lengths are {norms.min():.4g} to {norms.max():.4g}: cut, and "
            f"not renormalised"
        )
    worst = apart(rows, list(full[:, :tier]))
    if not worst <= subject.tolerance:
        raise CheckFailed(
            f"at {tier} dimensions it gives something else than its full vector's prefix "
            f"({worst:.3g} apart): the recipe is applied after the cut, or it is another model"
        )


def _never_trained(space: Space) -> list[int]:
    """A dimension between the first two tiers, one between the last two, one below the first."""
    trained = space.trained_dims
    wanted = [
        (trained[0] + trained[1]) // 2 + 1,
        (trained[-2] + trained[-1]) // 2 + 1,
        trained[0] // 2 + 1,
    ]
    return [dim for dim in dict.fromkeys(wanted) if dim not in trained and dim < space.dim]
