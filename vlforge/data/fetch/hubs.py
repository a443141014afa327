"""Repositories of Hugging Face and ModelScope, through their own libraries.

The libraries keep what they have of a file and go on with it; here is decided which
files are wanted, whether an address may be asked, and whether what came is right.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from vlforge.data.download.addresses import Refused
from vlforge.data.download.client import Client
from vlforge.data.fetch.manifest import Item
from vlforge.data.fetch.source import HUB_NAMES, Source
from vlforge.data.fetch.transfer import WrongSum, sums_of
from vlforge.types import RecipeError

_HF = "https://huggingface.co"
_MODELSCOPE = "https://www.modelscope.cn"
_OTHER_WEIGHTS = (
    "*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.gguf",
)  # fmt: skip
_LISTED = 10_000
_PAGE = 100
_WAIT_S = 30.0
_ONE_AT_A_TIME = threading.Lock()
"""The library has one client for all threads; whoever swaps it closes it for the others."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository; its sum where the hub states it."""

    path: str
    size: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """The wanted files of a repository at one revision."""

    source: Source
    revision: str
    files: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        """All their bytes."""
        return sum(file.size for file in self.files)


class Hub(Protocol):
    """One hub."""

    def listing(self, source: Source) -> Listing:
        """All files of a repository."""
        ...

    def get(self, listing: Listing, file: HubFile, into: Path) -> None:
        """Bring one file to its path below `into`."""
        ...


def list_files(item: Item, source: Source, client: Client) -> Listing:
    """What of a repository an item wants.

    Raises:
        Refused: the repository cannot be read, or has nothing of it.
        RecipeError: the hub's library is missing.
    """
    found = _hub(source, client).listing(source)
    return Listing(found.source, found.revision, tuple(_wanted(item, source, found.files)))


def fetch_file(listing: Listing, file: HubFile, into: Path, client: Client) -> str:
    """Bring a file to its path below `into` and check it; its sha256.

    Raises:
        Refused: it does not come, or is another one than the hub states.
        OSError: it cannot be written.
    """
    _hub(listing.source, client).get(listing, file, into)
    path = into / file.path
    size = path.stat().st_size if path.is_file() else -1
    if size != file.size:
        path.unlink(missing_ok=True)
        raise Refused(f"{file.path}: {max(size, 0)} bytes came of {file.size}", is_final=False)
    found = sums_of(path)["sha256"]
    if file.sha256 and found != file.sha256:
        path.unlink(missing_ok=True)
        raise WrongSum(f"{file.path}: sha256 is {found}, it has to be {file.sha256}")
    return found


def halves(into: Path, paths: Sequence[Path]) -> Iterator[tuple[Path, int]]:
    """Files below `into` that are on their way to `paths`, as the libraries keep them."""
    waiting = [path.with_name(f"{path.name}.incomplete") for path in paths]
    for folder in (into / ".cache" / "huggingface", into / "._____temp"):
        waiting += [path for path in folder.rglob("*") if path.suffix not in (".lock", ".metadata")]
    for path in waiting:
        with suppress(OSError):
            if path.is_file():
                yield path, path.stat().st_size


def _wanted(item: Item, source: Source, files: Sequence[HubFile]) -> Iterator[HubFile]:
    if source.file:
        kept = [file for file in files if file.path == source.file]
    else:
        kept = [file for file in files if _matches(file.path, item)]
    if item.one_format and any(file.path.endswith(".safetensors") for file in kept):
        kept = [file for file in kept if not any(fnmatch(file.path, p) for p in _OTHER_WEIGHTS)]
    if not kept:
        what = source.file or ", ".join(item.patterns) or "files"
        raise Refused(f"{source.place} has no {what} among its {len(files)} files")
    for file in kept:
        if file.path.startswith("/") or ".." in file.path.split("/"):
            raise Refused(f"{source.place} names a file outside of itself: {file.path!r}")
    yield from kept


def _matches(path: str, item: Item) -> bool:
    if path == ".gitattributes" or any(fnmatch(path, p) for p in item.ignore):
        return False
    return not item.patterns or any(fnmatch(path, p) for p in item.patterns)


def _hub(source: Source, client: Client) -> Hub:
    library = "huggingface_hub" if source.hub == "hf" else "modelscope"
    if find_spec(library) is None:
        raise RecipeError(
            f"fetching from {HUB_NAMES[source.hub]} needs {library}: pip install 'vlforge[hubs]'"
        )
    return _HuggingFace(client) if source.hub == "hf" else _ModelScope(client)


class _HuggingFace:
    def __init__(self, client: Client):
        self.client = client
        self.endpoint = (os.environ.get("HF_ENDPOINT") or _HF).rstrip("/")

    def listing(self, source: Source) -> Listing:
        from huggingface_hub import HfApi

        with self._guarded(source):
            info = HfApi(endpoint=self.endpoint).repo_info(
                source.place,
                repo_type=_kind(source),
                revision=source.revision or None,
                files_metadata=True,
                timeout=_WAIT_S,
            )
        files = [
            HubFile(one.rfilename, one.size or 0, one.lfs.sha256 if one.lfs else "")
            for one in getattr(info, "siblings", None) or ()
        ]
        return Listing(source, info.sha or source.revision or "main", tuple(files))

    def get(self, listing: Listing, file: HubFile, into: Path) -> None:
        from huggingface_hub import hf_hub_download

        with self._guarded(listing.source), _quiet():
            hf_hub_download(
                listing.source.place,
                file.path,
                repo_type=_kind(listing.source),
                revision=listing.revision,
                local_dir=into,
                endpoint=self.endpoint,
            )

    @contextmanager
    def _guarded(self, source: Source) -> Iterator[None]:
        """Private addresses are refused, also behind redirections; errors become one line."""
        import huggingface_hub as hub

        self.client.check(self.endpoint)
        with _ONE_AT_A_TIME, self._swapped(hub):
            try:
                yield
            except Refused:
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                refused = _refused_within(error)
                reason = str(refused) if refused else _hf_reason(error, source)
                raise Refused(reason, is_final=bool(refused) or _hf_final(error)) from None

    @contextmanager
    def _swapped(self, hub: Any) -> Iterator[None]:
        """The library's client checks every address that it asks."""
        swap = getattr(hub, "set_client_factory", None)
        default = _default_factory() if swap else None
        if swap and default:
            swap(lambda: _checking(default(), self.client))
        try:
            yield
        finally:
            if swap and default:
                swap(default)


@contextmanager
def _quiet() -> Iterator[None]:
    """The library's own bars and remarks would break ours."""
    import huggingface_hub.utils as library

    bars: Any = library
    was_quiet, level = bars.are_progress_bars_disabled(), bars.logging.get_verbosity()
    bars.disable_progress_bars()
    bars.logging.set_verbosity_error()
    try:
        yield
    finally:
        bars.logging.set_verbosity(level)
        if not was_quiet:
            bars.enable_progress_bars()


def _kind(source: Source) -> str:
    return "dataset" if source.is_dataset else "model"


def _default_factory() -> Callable[[], Any] | None:
    try:
        from huggingface_hub.utils._http import default_client_factory
    except ImportError:
        return None
    found: Callable[[], Any] = default_client_factory
    return found


def _checking(web: Any, client: Client) -> Any:
    """The library's client, each of whose requests is checked first."""
    hooks = dict(web.event_hooks)
    checks = [lambda request: client.check(str(request.url)), *hooks.get("request", [])]
    web.event_hooks = hooks | {"request": checks}
    return web


def _refused_within(error: BaseException | None) -> Refused | None:
    """Our refusal of an address, which the library may have wrapped into its own errors."""
    while error is not None and not isinstance(error, Refused):
        error = error.__cause__ or error.__context__
    return error


def _hf_reason(error: Exception, source: Source) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    page = f"{_HF}/{'datasets/' if source.is_dataset else ''}{source.place}"
    if "GatedRepoError" in kinds:
        return (
            f"{source.place} is given out after its terms are accepted: do so at {page}, then "
            "`hf auth login`, or set HF_TOKEN"
        )
    if "RepositoryNotFoundError" in kinds:
        return f"{source.place}: no such repository, or a private one (then set HF_TOKEN)"
    if "RevisionNotFoundError" in kinds:
        return f"{source.place} has no revision {source.revision or 'main'}"
    if "OfflineModeIsEnabled" in kinds:
        return "HF_HUB_OFFLINE is set: unset it, or look with --offline"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


def _hf_final(error: Exception) -> bool:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    code = getattr(getattr(error, "response", None), "status_code", 0)
    known = {"GatedRepoError", "RepositoryNotFoundError", "RevisionNotFoundError"}
    return bool(kinds & (known | {"OfflineModeIsEnabled"})) or 400 <= code < 429


class _ModelScope:
    def __init__(self, client: Client):
        self.client = client
        domain = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN")
        given = domain or _MODELSCOPE
        self.endpoint = given if "://" in given else f"https://{given}"

    def listing(self, source: Source) -> Listing:
        with self._guarded(source):
            rows = _modelscope_rows(source)
        files = [
            HubFile(str(row.get("Path")), int(row.get("Size") or 0), str(row.get("Sha256") or ""))
            for row in rows
            if row.get("Type") != "tree"
        ]
        return Listing(source, source.revision or "master", tuple(files))

    def get(self, listing: Listing, file: HubFile, into: Path) -> None:
        from modelscope.hub import file_download as library

        source = listing.source
        bring = library.dataset_file_download if source.is_dataset else library.model_file_download
        with self._guarded(source):
            bring(source.place, file.path, revision=listing.revision, local_dir=str(into))

    @contextmanager
    def _guarded(self, source: Source) -> Iterator[None]:
        self.client.check(self.endpoint)
        # Its bars would break ours; tqdm reads this when it is imported.
        os.environ.setdefault("TQDM_DISABLE", "1")
        try:
            yield
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            text = " ".join(str(error).split())[:200]
            code = getattr(getattr(error, "response", None), "status_code", 0)
            reason = f"{source.place}: {type(error).__name__}: {text}"
            raise Refused(reason, is_final=400 <= (code or 0) < 429) from None


def _modelscope_rows(source: Source) -> list[dict[str, Any]]:
    from modelscope.hub.api import HubApi

    revision = source.revision or "master"
    if not source.is_dataset:
        found: list[dict[str, Any]] = HubApi().get_model_files(
            source.place, revision=revision, recursive=True
        )
        return found
    rows: list[dict[str, Any]] = []
    while len(rows) < _LISTED * _PAGE:
        page = HubApi().get_dataset_files(
            source.place,
            revision=revision,
            root_path="/",
            recursive=True,
            page_number=len(rows) // _PAGE + 1,
            page_size=_PAGE,
        )
        rows += page
        if len(page) < _PAGE:
            break
    return rows
