"""`vlforge view`: a local browser page over a dataset."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlforge.cli.listening import LOOPBACK, bound, serve, shown_address
from vlforge.cli.show import note_line, plain_line, shown_path
from vlforge.types import DataError

if TYPE_CHECKING:
    from vlforge.serving.viewer.server import Desk

EXAMPLES = """\b
Examples:
  vlforge view rows.jsonl                      any format: json, tars, parquet, folders …
  vlforge view out/data.process --dropped      what `vlforge process` dropped, and why
  vlforge view before.jsonl after.jsonl        side by side, joined by id
"""


def view(
    data: Annotated[
        Path,
        typer.Argument(help="A dataset, or a folder of `vlforge process`.", show_default=False),
    ],
    other: Annotated[
        Path | None,
        typer.Argument(help="What it became: shown beside it.", show_default=False),
    ] = None,
    from_: Annotated[
        str, typer.Option("--from", help="The format, where it is not to be found out.")
    ] = "",
    dropped: Annotated[
        bool, typer.Option("--dropped", help="Begin with the dropped rows.")
    ] = False,
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.", min=0, max=65535)] = 0,
    host: Annotated[
        str, typer.Option("--host", help="Another address than this machine's own.")
    ] = LOOPBACK[0],
    no_open: Annotated[bool, typer.Option("--no-open", help="Only print the address.")] = False,
) -> None:
    """Look at a dataset in the browser: search, filter, zoom, compare.

    Only this machine can reach the page. Rows are read from where they lie: a
    million of them open at once. Ctrl-C ends it.
    """
    desk = _desk(data, other, from_, wants_dropped=dropped)
    try:
        _serve(desk, host, port, opens=not no_open)
    finally:
        desk.close()


def _desk(data: Path, other: Path | None, format_name: str, *, wants_dropped: bool) -> Desk:
    from vlforge.serving.viewer.server import Desk
    from vlforge.serving.viewer.sources import open_sources

    sources = open_sources(data, format_name)
    try:
        others = open_sources(other) if other is not None else []
        if wants_dropped and not any(source.kind == "dropped" for source in sources):
            raise DataError(f"{data}: no dropped.jsonl; give a folder of `vlforge process`")
    except DataError:
        for source in sources:
            source.close()
        raise
    for unused in others[1:]:
        unused.close()
    for source in (*sources, *others[:1]):
        if source.spool is not None:
            note_line(
                f"{source.path}: {source.format_name} is read once into {source.spool.folder}"
            )
    return Desk(sources, others, "dropped" if wants_dropped else "")


def _serve(desk: Desk, host: str, port: int, *, opens: bool) -> None:
    try:
        import uvicorn  # noqa: F401  asked for here, to say so before anything is opened

        from vlforge.serving.viewer.server import build_app

        app = build_app(desk, is_open=host not in LOOPBACK)
    except ImportError:
        raise DataError("vlforge view needs fastapi: pip install 'vlforge[serve]'") from None
    listening = bound(host, port)
    # From here on a browser that comes before the server is ready waits instead of failing.
    listening.listen()
    url = f"{shown_address(host, listening)}/"
    if host not in LOOPBACK:
        note_line(
            f"--host {host}: whoever reaches this address sees the data; no password is asked"
        )
    desk.start()
    first = next(iter(desk.sources.values()))
    plain_line(f"Viewing {shown_path(first.path)} ({first.format_name})")
    plain_line(f"Open    {url}")
    plain_line("Stop    Ctrl-C")
    if opens:
        open_soon(url)
    serve(app, listening, drain_s=1)
    plain_line("Stopped")


def _has_browser() -> bool:
    """Whether a browser with windows is likely: one in the terminal would take it over."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def open_soon(url: str) -> None:
    """Show a page in a browser with windows, if there is likely one, once its server answers."""
    import webbrowser

    if not _has_browser():
        return

    timer = threading.Timer(0.4, webbrowser.open, (url,))
    timer.daemon = True
    timer.start()
