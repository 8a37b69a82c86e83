"""What lets a collection serve crosses the wire whole."""

from __future__ import annotations

import pytest

from nestvec.core.codec import VectorDtype
from nestvec.core.codes import CoarseCode
from nestvec.core.errors import InvalidRequest
from nestvec.core.measured import Evidence, LossBudget
from nestvec.rpc.evidence_wire import (
    code_from_wire,
    code_to_wire,
    evidence_from_wire,
    evidence_to_wire,
)
from nestvec.v1 import admin_pb2
from tests.nestvec.core.test_measured import ONE


@pytest.mark.parametrize("budget", [None, LossBudget(0.0, 0.0), LossBudget(0.002, 1.0)])
def test_evidence_comes_back_as_it_went(budget: LossBudget | None) -> None:
    evidence = Evidence(budget, (ONE,), "words")
    message = admin_pb2.Evidence.FromString(evidence_to_wire(evidence).SerializeToString())
    assert evidence_from_wire(message) == evidence


def test_every_code_and_dtype_has_a_number() -> None:
    assert [code_from_wire(code_to_wire(code)) for code in CoarseCode] == list(CoarseCode)
    assert code_to_wire(CoarseCode.AUTO) == 0
    for dtype in VectorDtype:
        assert admin_pb2.StoreDtype.Value(f"STORE_DTYPE_{dtype.name}") > 0


def test_what_this_version_does_not_know_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no code has number 99 here; known: auto, fp32"):
        code_from_wire(99)  # type: ignore[arg-type]
    message = evidence_to_wire(Evidence(None, (ONE,)))
    message.measured[0].store_dtype = 99  # type: ignore[assignment]
    with pytest.raises(InvalidRequest, match=r"measured\.store_dtype"):
        evidence_from_wire(message)
    message.measured[0].store_dtype = admin_pb2.STORE_DTYPE_FP16
    message.measured[0].coarse_code = admin_pb2.COARSE_CODE_UNSPECIFIED
    with pytest.raises(InvalidRequest, match=r"measured\.coarse_code"):
        evidence_from_wire(message)
