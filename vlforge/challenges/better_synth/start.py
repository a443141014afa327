"""`init`: the folder's layout, what is missing and what brings it, hashes of the given files.

Nothing of the user's is overwritten, and what was recorded once stays recorded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlforge.challenges.better_synth.config import ROUNDS, SCRIPTS, Round
from vlforge.challenges.better_synth.folder import COMMAND, RECORD, Kit, fingerprint, open_kit
from vlforge.challenges.better_synth.solution import FOLDER, README, RECIPE, recipes_in
from vlforge.types import DataError, RecipeError

FOLDERS = ("input", FOLDER, "output", "submit", "toolkit")
MANIFEST = "better_synth"
_COPIED = ("eval",)
"""Folders of the toolkit whose scripts find the kit from where they themselves lie."""


@dataclass(frozen=True)
class Missing:
    """A part of the kit that is not there: its name for `vlforge fetch`, where it belongs.

    by_hand: what a person has to do, where it cannot be fetched.
    """

    name: str
    place: str
    by_hand: str = ""


@dataclass(frozen=True)
class Begun:
    """What `init` did: files it made, groups recorded now and before, what is missing."""

    kit: Kit
    made: tuple[str, ...]
    recorded: tuple[str, ...]
    missing: tuple[Missing, ...]


def begin(
    folder: Path,
    round_name: Literal["offline", "online"] | None = None,
    toolkit: Path | None = None,
    given: Path | None = None,
) -> Begun:
    """Make or complete the folder.

    Args:
        round_name: whose numbers hold; by default as recorded, or by the seed that is there.
        toolkit: the contest's toolkit, if it lies elsewhere.
        given: the contest's input, if it lies elsewhere.

    Raises:
        DataError: `folder` is a file, or what is named is not there.
        RecipeError: another round than before.
    """
    folder = folder.absolute()
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; name a folder")
    before = open_kit(folder) if (folder / RECORD).exists() else None
    _check_given(toolkit, given)
    made = [name for name in FOLDERS if not (folder / name).exists()]
    for name in made:
        (folder / name).mkdir(parents=True)
    if toolkit is not None:
        made += _bring_toolkit(toolkit.absolute(), folder)
    if given is not None:
        made += _bring_input(given.absolute(), folder)
    chosen = _round(folder, round_name, before)
    made += _write_solution(folder, chosen)
    kit = Kit(folder, chosen, dict(before.recorded) if before else {})
    recorded = _record(kit)
    _save(kit)
    return Begun(kit, tuple(made), tuple(recorded), tuple(missing(kit)))


def _check_given(toolkit: Path | None, given: Path | None) -> None:
    for option, path in (("--toolkit", toolkit), ("--input", given)):
        if path is not None and not path.is_dir():
            raise DataError(f"{option} {path}: no such folder")
    if toolkit is None:
        return
    if not any((toolkit / Path(name).name).is_file() for name in SCRIPTS):
        raise DataError(
            f"--toolkit {toolkit}: holds no {Path(SCRIPTS[0]).name}; name the kit's toolkit/"
        )


def _round(folder: Path, wanted: str | None, before: Kit | None) -> Round:
    if before is not None:
        if wanted not in (None, before.round.name):
            raise RecipeError(
                f"{folder} was set up for the {before.round.name} round; take another folder "
                f"for the {wanted} one"
            )
        return before.round
    if wanted is not None:
        return ROUNDS[wanted]
    online = ROUNDS["online"]
    return online if (folder / online.seed / online.rows).is_file() else ROUNDS["offline"]


def _bring_toolkit(source: Path, folder: Path) -> list[str]:
    """The toolkit's parts: scripts copied, as they are edited and find the kit by their own
    place; folders linked, as they are large."""
    made = []
    for path in sorted(source.iterdir()):
        place = folder / "toolkit" / path.name
        if place.exists() or place.is_symlink() or path.name.startswith("."):
            continue
        if not path.is_dir():
            shutil.copy2(path, place)
        elif path.name in _COPIED:
            shutil.copytree(path, place)
        else:
            place.symlink_to(path, target_is_directory=True)
        made.append(f"toolkit/{path.name}")
    return made


def _bring_input(source: Path, folder: Path) -> list[str]:
    """Links to the seed's folders; `source` holds them or is one of them."""
    names = [Path(one.seed).name for one in ROUNDS.values()]
    is_seed = any((source / one.rows).is_file() for one in ROUNDS.values())
    if is_seed and source.name not in names:
        rows = next(one for one in ROUNDS.values() if (source / one.rows).is_file())
        found = {Path(rows.seed).name: source}
    else:
        found = {p.name: p for p in ([source] if is_seed else source.iterdir()) if p.is_dir()}
    made = []
    for name, path in sorted(found.items()):
        place = folder / "input" / name
        if not place.exists() and not place.is_symlink():
            place.symlink_to(path, target_is_directory=True)
            made.append(f"input/{name}")
    return made


def _write_solution(folder: Path, chosen: Round) -> list[str]:
    """A recipe that synthesises, a readme and requirements, each only where none is."""
    home = folder / FOLDER
    wanted: dict[str, str] = {}
    recipes = recipes_in(home)
    name = recipes[0].name if recipes else "image_captioning.yaml"
    if not recipes:
        size = f"{chosen.seed_rows // 1000}k"
        wanted[name] = RECIPE.format(rows=f"{chosen.seed}/{chosen.rows}", size=size)
    if not any(path.name.lower().startswith("readme") for path in home.iterdir()):
        wanted["readme.md"] = README.format(recipe=name, folder=folder.name)
    if not (home / "requirements.txt").exists():
        from vlforge import __version__

        wanted["requirements.txt"] = f"vlforge=={__version__}\n"
    for file, text in wanted.items():
        (home / file).write_text(text, encoding="utf-8")
    return [f"{FOLDER}/{file}" for file in wanted]


def missing(kit: Kit) -> list[Missing]:
    """What of the contest's files is not there, by the manifest that fetches them."""
    from vlforge.data.fetch.manifest import read_manifest

    is_online = kit.round.group == "full"
    found = []
    for item in read_manifest(MANIFEST).items:
        group = item.group
        if group == ("data" if is_online else "full"):
            continue
        place = kit.at(item.to)
        if item.name == "kit":
            if kit.script_path is None:
                found.append(Missing("kit", item.to, item.do))
            continue
        wanted = [place / part for part in item.expect] or [place]
        if all(path.exists() and not _is_empty(path) for path in wanted):
            continue
        found.append(Missing(item.name, item.to))
    return found


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _record(kit: Kit) -> list[str]:
    """Hashes of given files that were not recorded yet; the names of what is new."""
    new = []
    script = kit.script()
    if script is not None and "script" not in kit.recorded:
        kit.recorded["script"] = {
            "name": kit.shown(script.path),
            "fixed_sha256": script.fixed_digest,
            "fixed_lines": list(script.fixed),
        }
        new.append("fixed part of the train script")
    for group, paths in kit.sources().items():
        known: dict[str, Any] = kit.recorded.setdefault(group, {})
        before = len(known)
        if known and group == "training-code":
            continue  # what came to the code later is not the contest's
        for path in paths:
            name = kit.shown(path)
            found = fingerprint(path) if name not in known else None
            if found is not None and found.get("files", 1):
                known[name] = found
        if len(known) > before:
            new.append(group.replace("-", " "))
    return new


def _save(kit: Kit) -> None:
    record: Mapping[str, Any] = {
        "what": f"Written by `{COMMAND} init`: what the contest's files were. Do not edit.",
        "round": kit.round.name,
        "recorded": kit.recorded,
    }
    from vlforge.runs.store import write_text

    write_text(kit.at(RECORD), json.dumps(record, indent=1, ensure_ascii=False) + "\n")
