"""OpenAI-compatible endpoints: what is asked, and every way an answer can be wrong."""

from __future__ import annotations

import base64
import json
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nestvec.adapters.models.card import ModelCard
from nestvec.adapters.models.known import find_known
from nestvec.adapters.models.memory import HashModel
from nestvec.adapters.models.openai import OpenAIModel
from nestvec.adapters.models.openai_double import OpenAIDouble
from nestvec.adapters.models.settings import EndpointSettings
from nestvec.core.errors import ConfigError, InvalidRequest, WorkerUnavailable

KEY = "sk-very-secret-0123456789"
TEXTS = ["one", "two three", "four five six"]
Open = Callable[..., OpenAIModel]


@pytest.fixture
def double() -> Iterator[OpenAIDouble]:
    with OpenAIDouble(HashModel(32), name="served") as server:
        yield server


@pytest.fixture
def open_model(double: OpenAIDouble) -> Iterator[Open]:
    """Opens the double's model with some settings changed, and closes it at the end."""
    opened: list[OpenAIModel] = []

    def opener(card: ModelCard | None = None, **changes: Any) -> OpenAIModel:
        settings = replace(EndpointSettings(double.url, backoff_s=0.001), **changes)
        opened.append(OpenAIModel("served", card, settings))
        return opened[-1]

    yield opener
    for model in opened:
        model.close()


def test_the_full_dimension_is_asked_for_and_never_a_shorter_one(
    double: OpenAIDouble, open_model: Open
) -> None:
    model = open_model()
    np.testing.assert_array_equal(model.embed(TEXTS), HashModel(32).embed(TEXTS))
    assert model.space.dim == 32
    assert model.space.trained_dims == (32,)
    assert all("dimensions" not in request for request in double.requests)
    open_model(send_dimensions=True, dim=32).embed(TEXTS)
    assert double.requests[-1]["dimensions"] == 32


def test_a_card_gives_tiers_and_prompts_but_must_fit(open_model: Open) -> None:
    card = ModelCard("mine", 32, (8, 32))
    assert open_model(card, revision="r1").space == card.space("r1")
    with pytest.raises(ConfigError, match="gives 32 dimensions, the card of mine says 64"):
        open_model(ModelCard("mine", 64))


def test_a_revision_makes_another_space(open_model: Open) -> None:
    assert open_model(revision="a").space.fingerprint != open_model(revision="b").space.fingerprint


def test_batches_are_bounded_in_texts_and_in_characters(
    double: OpenAIDouble, open_model: Open
) -> None:
    texts = [f"text {number}" for number in range(10)]
    model = open_model(batch_texts=4)
    expected = HashModel(32).embed(texts)
    np.testing.assert_array_equal(model.embed(texts), expected)
    assert [len(request["input"]) for request in double.requests[1:]] == [4, 4, 2]
    double.requests.clear()
    np.testing.assert_array_equal(open_model(batch_chars=13).embed(texts), expected)
    assert [len(request["input"]) for request in double.requests[1:]] == [2] * 5


def test_a_server_that_answers_lists_whatever_was_asked_is_understood(
    double: OpenAIDouble, open_model: Open
) -> None:
    def as_lists(answer: dict[str, Any]) -> dict[str, Any]:
        for item in answer["data"]:
            raw = base64.b64decode(item["embedding"])
            item["embedding"] = np.frombuffer(raw, "<f4").tolist()
        return answer

    double.change = as_lists
    np.testing.assert_array_equal(open_model().embed(TEXTS), HashModel(32).embed(TEXTS))


# --- the key ------------------------------------------------------------------------------------


def test_the_key_is_sent_and_shown_nowhere(
    double: OpenAIDouble,
    open_model: Open,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    double.key = KEY
    monkeypatch.setenv("SOME_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    model = open_model(api_key_env="SOME_KEY")
    assert model.embed(TEXTS).shape == (3, 32)
    double.faults = [(500, {}, f"you sent {KEY}")] * 9
    with pytest.raises(WorkerUnavailable) as caught:
        model.embed(TEXTS)
    shown = [repr(model), str(caught.value), repr(caught.value.__cause__), caplog.text]
    assert not [text for text in shown if KEY in text]


def test_a_key_may_come_from_a_file(double: OpenAIDouble, open_model: Open, tmp_path: Path) -> None:
    double.key = KEY
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert open_model(api_key_file=str(tmp_path / "key")).space.dim == 32


def test_a_wrong_key_is_found_at_load_and_not_quoted(
    double: OpenAIDouble, open_model: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.key = "another"
    monkeypatch.setenv("SOME_KEY", KEY)
    with pytest.raises(ConfigError, match=r"refused the API key \(HTTP 401\)") as caught:
        open_model(api_key_env="SOME_KEY")
    assert KEY not in str(caught.value)


def test_a_key_that_is_not_there_is_named(open_model: Open, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="environment variable NO_SUCH_KEY holds no API key"):
        open_model(api_key_env="NO_SUCH_KEY")
    with pytest.raises(ConfigError, match="cannot be read"):
        open_model(api_key_file=str(tmp_path / "none"))


def test_openais_own_key_goes_to_openai_only(
    double: OpenAIDouble, open_model: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    double.key = KEY
    with pytest.raises(ConfigError, match="refused the API key"):
        open_model()


# --- faults -------------------------------------------------------------------------------------

OK_LATER = [(429, {"retry-after": "0"}, "slow down"), (503, {}, ""), (500, {}, "{}")]


def test_a_passing_fault_is_tried_again(double: OpenAIDouble, open_model: Open) -> None:
    model = open_model()
    double.faults = list(OK_LATER)
    np.testing.assert_array_equal(model.embed(TEXTS), HashModel(32).embed(TEXTS))
    assert len(double.requests) == 1 + 4


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_lasting_fault_ends_after_a_bounded_number_of_tries(
    double: OpenAIDouble, open_model: Open, status: int
) -> None:
    model = open_model(attempts=3)
    double.faults = [(status, {}, json.dumps({"error": {"message": "no\nroom"}}))] * 9
    with pytest.raises(WorkerUnavailable, match=rf"HTTP {status}: no room; tried 3 times"):
        model.embed(TEXTS)
    assert len(double.requests) == 1 + 3


def test_a_wait_that_is_asked_for_is_bounded(double: OpenAIDouble, open_model: Open) -> None:
    model = open_model(longest_wait_s=0.01)
    double.faults = [(429, {"retry-after": "86400"}, "")]
    assert model.embed(TEXTS).shape == (3, 32)


def test_a_silent_endpoint_is_given_up(double: OpenAIDouble, open_model: Open) -> None:
    model = open_model(timeout_s=0.05, attempts=2, dim=32, probe=False)
    double.delay_s = 0.5
    with pytest.raises(WorkerUnavailable, match=r"did not answer in time \(ReadTimeout\)"):
        model.embed(TEXTS)


def test_an_endpoint_that_is_not_there_is_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        settings = EndpointSettings(url, attempts=2, backoff_s=0.001)
        with pytest.raises(WorkerUnavailable, match=rf"{url} cannot be reached \(ConnectError"):
            OpenAIModel("served", None, settings)


def _drop(answer: dict[str, Any]) -> dict[str, Any]:
    answer["data"].pop()
    return answer


def _repeat(answer: dict[str, Any]) -> dict[str, Any]:
    answer["data"][0]["index"] = 0
    return answer


def _nan(answer: dict[str, Any]) -> dict[str, Any]:
    answer["data"][0]["embedding"] = [float("nan")] * 32
    return answer


def _shorten(answer: dict[str, Any]) -> dict[str, Any]:
    for item in answer["data"]:
        item["embedding"] = [0.5] * 16
    return answer


def _nulls(answer: dict[str, Any]) -> dict[str, Any]:
    answer["data"][0]["embedding"] = [None] * 32
    return answer


def _ragged(answer: dict[str, Any]) -> dict[str, Any]:
    answer["data"][0]["embedding"] = [1.0] * 31
    return answer


def _bad_base64(answer: dict[str, Any]) -> dict[str, Any]:
    answer["data"][0]["embedding"] = "???"
    return answer


def _list(answer: dict[str, Any]) -> list[Any]:
    return [answer]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop, r"answered 2 embeddings numbered \[2, 1\], expected 3 numbered from 0"),
        (_repeat, r"answered 3 embeddings numbered \[0, 1, 0\], expected 3"),
        (_nan, "answered NaN or infinite values"),
        (_shorten, "answered 16 dimensions, expected 32; it serves another model"),
        (_nulls, r"answered NaN or infinite values|no list of embeddings"),
        (_ragged, "embeddings of several lengths"),
        (_bad_base64, "what is no list of embeddings"),
        (_list, "what is no list of embeddings"),
    ],
)
def test_an_answer_that_cannot_be_right_is_refused(
    double: OpenAIDouble, open_model: Open, change: Callable[[Any], object], message: str
) -> None:
    model = open_model()
    double.change = change
    with pytest.raises(WorkerUnavailable, match=message):
        model.embed(TEXTS)
    double.change = None
    assert model.embed(TEXTS).shape == (3, 32), "the next good answer is taken"


@pytest.mark.parametrize("garbage", ["", "<html>", "{", '"text"', '{"data": 3}', "null"])
def test_what_is_no_answer_at_all_is_refused(
    double: OpenAIDouble, open_model: Open, garbage: str
) -> None:
    model = open_model()
    double.faults = [(200, {}, garbage)]
    with pytest.raises(WorkerUnavailable, match="what is no list of embeddings"):
        model.embed(TEXTS)


def test_a_text_that_the_endpoint_refuses_is_the_callers_fault(
    double: OpenAIDouble, open_model: Open
) -> None:
    model = open_model()
    double.faults = [(400, {}, json.dumps({"error": {"message": "too many tokens"}}))]
    with pytest.raises(InvalidRequest, match=r"texts: served refused them \(HTTP 400\): too many"):
        model.embed(TEXTS)
    assert len(double.requests) == 2, "asking again would not help"


def test_an_unknown_model_or_path_is_found_at_load(double: OpenAIDouble) -> None:
    settings = EndpointSettings(double.url)
    with pytest.raises(ConfigError, match=r"HTTP 404: no model 'other'.*; check endpoint\.url"):
        OpenAIModel("other", None, settings)
    with pytest.raises(ConfigError, match="HTTP 404"):
        OpenAIModel("served", None, replace(settings, url=double.url + "/extra"))


def test_a_key_that_is_revoked_later_makes_the_worker_unavailable(
    double: OpenAIDouble, open_model: Open
) -> None:
    model = open_model()
    double.key = "new"
    with pytest.raises(WorkerUnavailable, match="refused the API key"):
        model.embed(TEXTS)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/v1", "expected a base like"),
        ("host/v1", "expected a base like"),
        ("http://user:pass@host/v1", "holds a password"),
        ("http://host/v1?key=1", "expected a base like"),
        ("http://host:many/v1", "is no URL"),
    ],
)
def test_a_url_that_cannot_work_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        OpenAIModel("served", None, EndpointSettings(url))
    assert "pass@" not in str(caught.value)


def test_a_model_that_chooses_an_adapter_by_role_is_refused(open_model: Open) -> None:
    with pytest.raises(ConfigError, match="chooses an adapter by role"):
        open_model(find_known("jina-embeddings-v3"))


def test_a_closed_model_says_so(double: OpenAIDouble, open_model: Open) -> None:
    model = open_model()
    model.close()
    with pytest.raises(WorkerUnavailable, match="was closed"):
        model.embed(TEXTS)
