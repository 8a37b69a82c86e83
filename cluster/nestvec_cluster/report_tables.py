"""How every report's tables look."""

from __future__ import annotations

from rich import box
from rich.table import Table


def report_table(title: str, first: str | None, *headings: str) -> Table:
    """No lines around it. first: the heading of the rows' names, on the left; figures stand on the
    right.
    """
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    if first is not None:
        table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
