"""A space's identity covers all that changes a vector and nothing that does not."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.errors import ConfigError, SpaceMismatch
from nestvec.core.space import Prompts, Recipe, Role, Space

PLAIN = Space("m", 8)
NOMIC = Space(
    model="nomic-embed-text-v1.5",
    dim=768,
    weights="sha256:0123",
    trained_dims=(64, 128, 256, 512, 768),
    recipe=Recipe(layer_norm=True),
    prompts=Prompts(query="search_query: ", document="search_document: "),
)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    trained = sorted(draw(st.sets(st.integers(1, 8), min_size=1, max_size=4)))
    text = st.sampled_from(["", "a", "b", "ab", "a ", "\x00", "é", '"', "日本"])
    return Space(
        draw(text),
        trained[-1],
        draw(text),
        tuple(trained),
        Recipe(draw(st.booleans())),
        Prompts(draw(text), draw(text)),
    )


def identity(space: Space) -> tuple[object, ...]:
    return (space.model, space.dim, space.weights, space.recipe, space.prompts)


# --- the fingerprint ------------------------------------------------------------------------------


def test_fingerprints_are_pinned() -> None:
    """They are in every stored vector: a change here makes every store unreadable."""
    assert PLAIN.fingerprint == "7714cd6f7406f37a"
    assert NOMIC.fingerprint == "b1d5629e97fb59bf"


def test_a_fingerprint_is_the_hash_of_one_canonical_text() -> None:
    canonical = (
        '{"dim":8,"format":1,"metric":"cosine","model":"m","prompts":{"document":"","query":""},'
        '"recipe":{"layer_norm":false},"weights":""}'
    )
    assert hashlib.sha256(canonical.encode()).hexdigest()[:16] == PLAIN.fingerprint


# One change for every field, nested ones too. None: the field is no part of the identity.
CHANGES: dict[str, Callable[[Space], Space] | None] = {
    "model": lambda space: replace(space, model="another"),
    "dim": lambda space: replace(space, dim=1024, trained_dims=(64, 1024)),
    "weights": lambda space: replace(space, weights="sha256:4567"),
    "trained_dims": None,
    "recipe.layer_norm": lambda space: replace(space, recipe=Recipe(layer_norm=False)),
    "prompts.query": lambda space: replace(
        space, prompts=replace(space.prompts, query="search_query:")
    ),
    "prompts.document": lambda space: replace(space, prompts=replace(space.prompts, document="")),
}


def field_paths(value: object, prefix: str = "") -> list[str]:
    assert dataclasses.is_dataclass(value)
    paths: list[str] = []
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            paths += field_paths(inner, f"{prefix}{field.name}.")
        else:
            paths.append(prefix + field.name)
    return paths


def test_every_field_is_known_to_change_the_fingerprint_or_not() -> None:
    assert set(field_paths(NOMIC)) == set(CHANGES)


@pytest.mark.parametrize("path", [path for path, change in CHANGES.items() if change])
def test_every_field_that_changes_a_vector_changes_the_fingerprint(path: str) -> None:
    change = CHANGES[path]
    assert change is not None
    assert change(NOMIC).fingerprint != NOMIC.fingerprint


@pytest.mark.parametrize("trained", [(768,), (1, 768), (32, 64, 128, 256, 512, 768)])
def test_learning_of_another_trained_tier_makes_no_new_space(trained: tuple[int, ...]) -> None:
    assert replace(NOMIC, trained_dims=trained).fingerprint == NOMIC.fingerprint


@given(spaces(), spaces())
def test_fingerprints_are_equal_exactly_when_identities_are(one: Space, other: Space) -> None:
    assert (one.fingerprint == other.fingerprint) == (identity(one) == identity(other))


@given(spaces())
def test_a_fingerprint_is_sixteen_lower_hex_digits(space: Space) -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", space.fingerprint)


def test_text_moved_between_fields_is_another_space() -> None:
    assert Space("ab", 8, "c").fingerprint != Space("a", 8, "bc").fingerprint
    swapped = replace(NOMIC, prompts=Prompts(NOMIC.prompts.document, NOMIC.prompts.query))
    assert swapped.fingerprint != NOMIC.fingerprint


# --- checks ---------------------------------------------------------------------------------------


def test_the_same_space_is_let_pass() -> None:
    NOMIC.require_same(NOMIC.fingerprint, "the query")


@pytest.mark.parametrize("got", [PLAIN.fingerprint, "", NOMIC.fingerprint.upper(), "b1d5629e"])
def test_any_other_fingerprint_is_refused_with_both_named(got: str) -> None:
    with pytest.raises(SpaceMismatch, match=r"^the query is in space") as caught:
        NOMIC.require_same(got, "the query")
    assert (caught.value.expected, caught.value.got) == (NOMIC.fingerprint, got)


@pytest.mark.parametrize(
    ("dim", "trained", "complaint"),
    [
        (0, (), "dim is 0, expected 1 to 65,535"),
        (-8, (), "dim is -8, expected 1 to 65,535"),
        (8, (8, 4), r"\(8, 4\) must ascend"),
        (8, (4, 4, 8), "without repeats"),
        (8, (0, 8), "must ascend"),
        (8, (-4, 8), "must ascend"),
        (8, (2, 4), "must end with the full dimension 8"),
        (8, (4, 16), "must end with the full dimension 8"),
    ],
)
def test_dimensions_that_cannot_be_are_refused(
    dim: int, trained: tuple[int, ...], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=f"^some-model: .*{complaint}"):
        Space("some-model", dim, trained_dims=trained)


def test_a_dimension_that_no_stored_vector_can_name_is_refused() -> None:
    """A vector's header has two bytes for it. Refused here, it cannot fail at the first write."""
    with pytest.raises(ConfigError, match="65536"):
        Space("some-model", 65_536)


def test_a_model_without_a_card_has_its_full_dimension_only() -> None:
    assert Space("m", 384).trained_dims == (384,)


def test_trained_dims_read_from_a_list_are_kept_as_a_tuple() -> None:
    space = Space("m", 8, trained_dims=[4, 8])  # type: ignore[arg-type]
    assert space.trained_dims == (4, 8)
    assert hash(space) == hash(Space("m", 8, trained_dims=(4, 8)))


def test_a_space_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        NOMIC.dim = 512  # type: ignore[misc]


# --- plain data and prompts -----------------------------------------------------------------------


@given(spaces())
def test_a_space_survives_json(space: Space) -> None:
    back = Space.from_dict(json.loads(json.dumps(space.to_dict())))
    assert back == space
    assert back.fingerprint == space.fingerprint


def test_plain_data_names_every_field() -> None:
    assert set(NOMIC.to_dict()) == {path.split(".")[0] for path in CHANGES}


@pytest.mark.parametrize(
    ("role", "prompted"),
    [
        (Role.QUERY, "search_query: how  deep?"),
        (Role.DOCUMENT, "search_document: how  deep?"),
    ],
)
def test_a_text_gets_the_prompt_of_its_role_to_the_last_blank(role: Role, prompted: str) -> None:
    assert NOMIC.prompts.apply("how  deep?", role) == prompted


def test_roles_keep_their_names() -> None:
    assert [role.value for role in Role] == ["query", "document"]


@given(st.text(), st.sampled_from(Role))
def test_no_prompt_is_no_change(text: str, role: Role) -> None:
    assert Prompts().apply(text, role) == text
