"""`vlforge web`: a browser page to talk with one model, or to compare two."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlforge.cli.listening import LOOPBACK, bound, serve, shown_address
from vlforge.cli.options import (
    Attention,
    BaseModel,
    Device,
    DeviceMap,
    LanguagePart,
    Precision,
    QFormerPart,
    Quantise,
    VisionPart,
    loading_of,
)
from vlforge.cli.show import note_line, plain_line, shown_path
from vlforge.cli.talkers import open_talker
from vlforge.types import DataError, ModelError, RecipeError

if TYPE_CHECKING:
    from vlforge.serving.web.door import Login
    from vlforge.serving.web.hall import Hall

EXAMPLES = """\b
Examples:
  vlforge web runs/photos/model                       chat in the browser, on this machine
  vlforge web runs/raw/model runs/refined/model       side by side, with votes
  vlforge web MODEL --low-resource                    8-bit, one beam
  vlforge web prerained_minigpt4_7b.pth --vision eva_vit_g.pth
    --qformer blip2_pretrained_flant5xxl.pth --language vicuna-7b
  vlforge web MODEL --share --login ada               other machines, name and password asked
  vlforge web MODEL --examples pictures/              a.jpg, and its question in a.txt
"""
PASSWORD = "VLFORGE_WEB_PASSWORD"
Model = Annotated[Path, typer.Argument(help="A model folder.", show_default=False)]
Other = Annotated[
    Path | None, typer.Argument(help="Another one, to compare with.", show_default=False)
]
Host = Annotated[str, typer.Option(help="Another address than this machine's own.")]
Share = Annotated[bool, typer.Option("--share", help="Let other machines in: --host 0.0.0.0.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
User = Annotated[
    str,
    typer.Option(
        "--login",
        metavar="NAME",
        help=f"Ask for this name and the password in {PASSWORD} (without one: made and printed).",
    ),
]
IsOpen = Annotated[bool, typer.Option("--open", help="Ask other machines for no login.")]
VoteFile = Annotated[
    Path, typer.Option("--votes", metavar="FILE", help="Where votes on two models are added.")
]
Begin = Annotated[
    Path | None, typer.Option("--examples", metavar="FOLDER", help="Pictures to begin with.")
]
Low = Annotated[
    bool,
    typer.Option("--low-resource", help="8-bit language model, one beam, one answer at a time."),
]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Only print the address.")]
Together = Annotated[int, typer.Option(min=1, help="Most answers drawn side by side.")]
Waiting = Annotated[int, typer.Option(min=1, help="Most questions in a model's line.")]
Longest = Annotated[int, typer.Option(min=1, help="Most tokens that an answer may have.")]
Template = Annotated[str, typer.Option(help="Conversation template; auto: the model's own.")]


def web(
    model: Model,
    other: Other = None,
    host: Host = LOOPBACK[0],
    share: Share = False,
    port: Port = 0,
    login: User = "",
    is_open: IsOpen = False,
    votes: VoteFile = Path("votes.jsonl"),
    examples: Begin = None,
    low_resource: Low = False,
    no_browser: NoBrowser = False,
    batch: Together = 8,
    waiting: Waiting = 64,
    most_tokens: Longest = 2048,
    template: Template = "auto",
    base: BaseModel = None,
    vision: VisionPart = None,
    qformer: QFormerPart = None,
    language: LanguagePart = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    quantise: Quantise = "none",
    attention: Attention = "auto",
    device_map: DeviceMap = "none",
) -> None:
    """Talk with a model about pictures in the browser, or compare two and vote.

    Only this machine can reach the page. Pictures are kept while their page is
    open and removed after an hour without a question. Ctrl-C ends it.
    """
    folders = named_folders([model, *([other] if other is not None else [])])
    if share and host == LOOPBACK[0]:
        host = "0.0.0.0"
    guard = _login(host, login, is_open=is_open)
    if low_resource:
        # One answer at a time: in 8 bits words may change with those drawn beside them.
        batch, quantise = 1, "8bit" if quantise == "none" else quantise
    how = {
        "device": device, "template": template, "batch": batch,
        "loading": loading_of(precision, quantise, attention, device_map),
        "parts": {"base": base, "vision": vision, "language": language, "qformer": qformer},
        "waiting": waiting,
    }  # fmt: skip
    _check_libraries()
    taken = bound(host, port)
    try:
        chosen = _chosen(examples, votes if other is not None else None)
        chosen |= {"low_resource": low_resource}
        hall = _hall(folders, how, most_tokens, chosen)
        try:
            # From here on a browser that comes before the server is ready waits.
            taken.listen()
            _tell(hall, guard, host, taken)
            _answer(hall, guard[0], host, taken, opens=not no_browser)
        finally:
            hall.close()
    finally:
        taken.close()
    plain_line("Stopped")


def named_folders(models: Sequence[Path]) -> dict[str, Path]:
    """Folders by the shortest end of their paths that tells them apart.

    Raises:
        ModelError: no such folder.
    """
    for path in models:
        if not path.exists():
            raise ModelError(f"{path}: no such model folder; give a training stage of a run")
    parts = [Path(os.path.abspath(path)).parts for path in models]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]).lstrip("/") for part in parts]
        if len(set(names)) == len(names):
            return dict(zip(names, models, strict=True))
    return {f"{parts[0][-1]} ({n})": path for n, path in enumerate(models, 1)}


def _login(host: str, user: str, *, is_open: bool) -> tuple[Login | None, bool]:
    """Who may come in, and whether the password was made here."""
    from vlforge.serving.web.door import Login

    if is_open and user:
        raise RecipeError("--open asks for no login and --login for one; give one of them")
    if is_open or (host in LOOPBACK and not user):
        return None, False
    password = os.environ.get(PASSWORD, "")
    return Login(user or "guest", password or secrets.token_urlsafe(12)), not password


def _check_libraries() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise DataError("vlforge web needs fastapi: pip install 'vlforge[serve]'") from None


def _chosen(examples: Path | None, votes: Path | None) -> dict[str, Any]:
    """What the page begins with and where votes go; faults are found before models load."""
    from vlforge.serving.web.hall import read_examples
    from vlforge.serving.web.votes import Votes

    return {
        "examples": read_examples(examples) if examples is not None else (),
        "votes": Votes(votes) if votes is not None else None,
    }


def _hall(
    folders: dict[str, Path],
    how: dict[str, Any],
    most_tokens: int,
    chosen: dict[str, Any],
) -> Hall:
    from vlforge.serving.web.hall import Hall
    from vlforge.serving.web.rooms import Bounds

    talkers = [open_talker(name, folder, **how) for name, folder in folders.items()]
    notes = [list(getattr(talker.speaker, "notes", ())) for talker in talkers]
    return Hall(talkers, bounds=Bounds(tokens=most_tokens), notes=notes, **chosen)


def _tell(hall: Hall, guard: tuple[Login | None, bool], host: str, taken: Any) -> None:
    login, is_made = guard
    address = shown_address(host, taken)
    plain_line(f"Chat    {' and '.join(talker.name for talker in hall.talkers)}")
    plain_line(f"Open    {address}/")
    if login is not None:
        secret = login.password if is_made else f"as {PASSWORD} says"
        plain_line(f"Login   {login.user}, password {secret}")
    if hall.votes is not None:
        plain_line(f"Votes   {shown_path(hall.votes.path)}")
    if host not in LOOPBACK:
        note_line(
            "pictures, words and password travel unencrypted; where others listen, "
            "leave --share out and tunnel: ssh -L PORT:127.0.0.1:PORT this-machine"
        )
    if host not in LOOPBACK and login is None:
        note_line(f"--open: whoever reaches {address} may ask; no login is needed")
    plain_line("Stop    Ctrl-C")


def _answer(hall: Hall, login: Login | None, host: str, taken: Any, *, opens: bool) -> None:
    from vlforge.cli.view import open_soon
    from vlforge.serving.web.app import create_app

    if opens and host in LOOPBACK:
        open_soon(f"{shown_address(host, taken)}/")
    serve(create_app(hall, is_open=host not in LOOPBACK, login=login), taken, drain_s=1)
