"""Certificates ascend as declared, and their wire names do not change."""

from nestvec.core.certificate import Certificate


def test_certificates_ascend_in_the_order_they_are_declared() -> None:
    assert list(Certificate) == [
        Certificate.NONE,
        Certificate.ESTIMATED,
        Certificate.WITHIN_CANDIDATES,
        Certificate.COLLECTION,
    ]


def test_certificates_keep_their_names() -> None:
    assert [certificate.value for certificate in Certificate] == [
        "none",
        "estimated",
        "within_candidates",
        "collection",
    ]
