"""The page on security tells the rights that servers really ask for."""

from __future__ import annotations

from nestvec.security.methods import RULES
from tools.security_matrix import PAGE, page, table


def test_the_page_has_the_table_of_today() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "run tools/security_matrix.py"


def test_the_table_has_every_rpc() -> None:
    assert len(table().splitlines()) == len(RULES) + 2
