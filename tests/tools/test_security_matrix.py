"""The page on security tells the rights and statuses that servers really have."""

from __future__ import annotations

from nestvec.rpc.documented import ERRORS
from nestvec.security.methods import RULES
from tests.support.secured import methods
from tools import store_users
from tools.security_matrix import PAGE, page, rights, statuses


def test_the_page_has_the_tables_of_today() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "run tools/security_matrix.py"


def test_the_tables_have_every_rpc() -> None:
    assert len(rights().splitlines()) == len(RULES) + 2
    assert set(ERRORS) == set(methods())
    assert len(statuses().splitlines()) == len(ERRORS) + 4


def test_the_chart_has_the_users_of_today() -> None:
    found = store_users.FILE.read_text(encoding="utf-8")
    assert found == store_users.text(), "run tools/store_users.py"
