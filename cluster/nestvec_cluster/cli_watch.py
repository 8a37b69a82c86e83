"""`nestvec status --watch`: a look every second, until whoever started it has seen enough.

On a terminal each look takes the place of the one before, on a screen of its own that is given back
at the end. Into a pipe or a file the looks follow one another; with `--json`, a line each.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from nestvec.core.errors import NestvecError
from nestvec_cluster.cluster_tables import ClusterStatus, status_data, status_tables
from nestvec_cluster.tables import dump_json_line

_EVERY_S = 1.0
# As a shell tells of a command that SIGTERM ended.
_TERMINATED = 128 + signal.SIGTERM

Look = Callable[[], Awaitable[ClusterStatus]]
Show = Callable[[ClusterStatus | NestvecError], None]


def watch(look: Look, console: Console, as_json: bool) -> None:
    """Show every look until Ctrl-C or SIGTERM. Raises KeyboardInterrupt for the one, typer.Exit for
    the other, and what the first look raises; later ones may fail and are shown as such: a store
    that is away for a moment is what one watches for.
    """
    try:
        with _shown_by(console, as_json) as show:
            asyncio.run(_watch(look, show))
    except asyncio.CancelledError:
        raise typer.Exit(_TERMINATED) from None


async def _watch(look: Look, show: Show) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    show(await look())
    while True:
        await asyncio.sleep(_EVERY_S)
        try:
            show(await look())
        except NestvecError as error:
            show(error)


@contextmanager
def _shown_by(console: Console, as_json: bool) -> Iterator[Show]:
    if as_json:
        yield lambda found: typer.echo(dump_json_line(_data(found)))
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False, screen=True) as live:
            yield lambda found: live.update(_tables(found), refresh=True)
    else:
        # Live would print its last look only.
        yield lambda found: console.print(_tables(found), "")


def _data(found: ClusterStatus | NestvecError) -> dict[str, object]:
    return {"error": str(found)} if isinstance(found, NestvecError) else status_data(found)


def _tables(found: ClusterStatus | NestvecError) -> RenderableType:
    if isinstance(found, NestvecError):
        return Text(str(found), style="red")
    return status_tables(found)
