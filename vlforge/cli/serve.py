"""`vlforge serve`: models behind an address that speaks OpenAI's chat protocol."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    LoadIn,
    Precision,
    TemplateName,
    Trained,
    Vision,
    loading_of,
)
from vlforge.cli.show import note_line, plain_line
from vlforge.cli.talkers import open_talker
from vlforge.types import DataError, ModelError, RecipeError

if TYPE_CHECKING:
    from vlforge.serving.http.limits import Limits
    from vlforge.serving.talking import Talker

EXAMPLES = """\b
Examples:
  vlforge serve runs/photos/model                     on this machine, port 8000
  vlforge serve runs/a/model runs/b/model --name before=runs/a/model
  vlforge serve MODEL --host 0.0.0.0                  prints the key that clients need
  vlforge serve MODEL --host 0.0.0.0 --api-key-env VLFORGE_KEY --precision bf16
  OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none python client.py
"""
Models = Annotated[list[Path], typer.Argument(help="Model folders.", show_default=False)]
Names = Annotated[
    list[str] | None,
    typer.Option("--name", metavar="NAME=MODEL", help="What clients call a model (repeatable)."),
]
Host = Annotated[str, typer.Option(help="Another address than this machine's own, as 0.0.0.0.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
KeyEnv = Annotated[str, typer.Option("--api-key-env", help="Variable that holds the key.")]
IsOpen = Annotated[bool, typer.Option("--open", help="Ask other machines for no key.")]
Together = Annotated[int, typer.Option(min=1, help="Most answers drawn side by side.")]
Waiting = Annotated[int, typer.Option(min=1, help="Most requests in a model's line.")]
Longest = Annotated[int, typer.Option(min=1, help="Tokens of an answer that asks for no number.")]
Most = Annotated[int, typer.Option(min=1, help="Tokens that a request may ask for.")]
Warmth = Annotated[
    float, typer.Option(min=0, max=2, help="Of requests that say none; 0: the likeliest answer.")
]
System = Annotated[str, typer.Option(help="System text of conversations without one.")]
Private = Annotated[
    bool, typer.Option("--allow-private", help="Fetch pictures from private addresses too.")
]
NoFetch = Annotated[bool, typer.Option("--no-fetch", help="Fetch no pictures from the web.")]
Body = Annotated[int, typer.Option(min=1, help="Megabytes of a request, pictures included.")]
Pixels = Annotated[float, typer.Option(min=0.01, help="Megapixels of a request's pictures.")]
Pictures = Annotated[int, typer.Option(min=0, help="Pictures of a request.")]
TimeLimit = Annotated[float, typer.Option(min=1, help="Seconds that a request may take.")]
Drain = Annotated[int, typer.Option(min=0, help="Seconds for what is under way at the end.")]


def serve_models(
    models: Models,
    name: Names = None,
    host: Host = LOOPBACK[0],
    port: Port = 8000,
    api_key_env: KeyEnv = "",
    is_open: IsOpen = False,
    batch: Together = 8,
    waiting: Waiting = 256,
    max_new_tokens: Longest = 512,
    most_tokens: Most = 32_768,
    temperature: Warmth = 0.0,
    system: System = "",
    template: TemplateName = "auto",
    allow_private: Private = False,
    no_fetch: NoFetch = False,
    max_body: Body = 32,
    max_pixels: Pixels = 64.0,
    max_pictures: Pictures = 16,
    time_limit: TimeLimit = 300.0,
    drain: Drain = 30,
    adapter: Trained = None,
    base: BaseModel = None,
    vision: Vision = None,
    language: LanguagePart = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    quantise: LoadIn = "none",
    attention: Attention = "auto",
    device_map: DeviceMap = "none",
) -> None:
    """Serve models to OpenAI's clients: /v1/chat/completions, /v1/models, /health, /metrics.

    Only this machine can reach it unless --host says otherwise; then a key is needed. Requests
    with equal settings are answered together. Ctrl-C ends what is under way first.
    """
    limits = {
        "tokens": max_new_tokens, "most_tokens": max(most_tokens, max_new_tokens),
        "temperature": temperature, "body": max_body << 20, "pixels": int(max_pixels * 1e6),
        "pictures": max_pictures, "time_s": time_limit, "held": max(512, 2 * max_body) << 20,
    }  # fmt: skip
    how = {
        "device": device, "template": template, "system": system, "batch": batch,
        "loading": loading_of(precision, quantise, attention, device_map),
        "parts": {"base": base, "vision": vision, "language": language},
        "adapter": adapter, "waiting": waiting,
    }  # fmt: skip
    folders = named_models(models, name or ())
    if adapter is not None and len(folders) > 1:
        raise ModelError("--adapter belongs to one model; merge the others first: vlforge merge")
    private = None if no_fetch else allow_private
    place = Place(host, port, *_key(host, api_key_env, is_open=is_open), drain)
    serve_at(place, folders, how, limits, private)


@dataclass(frozen=True)
class Place:
    """Where to serve: the address, the key ("": none) and whether it was made here."""

    host: str
    port: int
    key: str
    is_made: bool
    drain_s: int

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host in LOOPBACK


def serve_at(
    place: Place,
    folders: Mapping[str, Path],
    how: Mapping[str, Any],
    bounds: Mapping[str, Any],
    private: bool | None,
) -> None:
    """Open the models and answer until the end.

    Args:
        how: what models are opened with.
        bounds: of requests, for `Limits`.
        private: whether pictures are fetched from private addresses too; None: from none.
    """
    limits = _limits(**bounds)
    taken = bound(place.host, place.port)
    try:
        talkers = [open_talker(called, folder, **how) for called, folder in folders.items()]
        address = shown_address(place.host, taken)
        plain_line(f"Serving {', '.join(folders)}")
        plain_line(f"At      {address}/v1")
        if place.is_made:
            plain_line(f"Key     {place.key}")
        if not (place.key or place.is_local):
            note_line(f"--open: whoever reaches {address} may ask; no key is needed")
        plain_line("Stop    Ctrl-C")
        fetch = None if private is None else _fetcher(limits, allow_private=private)
        _answer(talkers, limits, fetch, place, taken)
    finally:
        taken.close()
    plain_line("Stopped")


def named_models(models: Sequence[Path], names: Sequence[str]) -> dict[str, Path]:
    """Folders by what clients call them: what `--name` says, else the folder's own name.

    Raises:
        ModelError: no such folder, or two of one name.
        RecipeError: a name for a model that is not served.
    """
    called: dict[str, str] = {}
    served = [os.path.abspath(path) for path in models]
    for text in names:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise RecipeError(f"--name {text!r} is not of the form NAME=MODEL")
        if os.path.abspath(folder) not in served:
            raise RecipeError(f"--name {text!r}: {folder} is not among the models; add it")
        called[os.path.abspath(folder)] = name
    found: dict[str, Path] = {}
    for path, place in zip(models, served, strict=True):
        if not path.exists():
            raise ModelError(f"{path}: no such model folder; give a training stage of a run")
        name = called.get(place) or Path(place).name
        if name in found:
            raise ModelError(
                f"two models are called {name!r}; tell them apart with --name NAME={path}"
            )
        found[name] = path
    return found


def _key(host: str, variable: str, *, is_open: bool) -> tuple[str, bool]:
    """The key that clients have to send, and whether it was made here."""
    if variable:
        key = os.environ.get(variable, "").strip()
        if not key:
            raise RecipeError(f"--api-key-env {variable}: that variable is not set; export it")
        if not (key.isascii() and key.isprintable()):
            raise RecipeError(f"--api-key-env {variable}: its key is not plain ASCII; take another")
        return key, False
    if host in LOOPBACK or is_open:
        return "", False
    # Some clients want a key to begin like OpenAI's.
    return f"sk-{secrets.token_urlsafe(32)}", True


def _limits(**bounds: Any) -> Limits:
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401

        from vlforge.serving.http.limits import Limits
    except ImportError:
        raise DataError("vlforge serve needs fastapi: pip install 'vlforge[serve]'") from None
    return Limits(**bounds)


def _fetcher(limits: Limits, *, allow_private: bool) -> Any:
    from vlforge.serving.http.pictures import Fetcher

    return Fetcher(limits, allow_private=allow_private)


def _answer(
    talkers: Sequence[Talker], limits: Limits, fetch: Any, place: Place, taken: Any
) -> None:
    from vlforge.serving.http.app import House, build_app

    house = House(talkers, limits, fetch, note_line)
    app = build_app(house, key=place.key, is_local=place.is_local)
    try:
        serve(app, taken, drain_s=place.drain_s)
    finally:
        house.close(wait_s=1.0)
