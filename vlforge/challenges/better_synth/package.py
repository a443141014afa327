"""`package`: submit.zip with the required members and no others, and its manifest beside it.

The zip's bytes depend on its members alone. What the kit's own trainer left is packed; what
ours left only where it is asked for, and marked.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlforge.challenges.archive import Member, write_archive
from vlforge.challenges.better_synth import rules
from vlforge.challenges.better_synth.benchmark_files import answer_files, scores_of
from vlforge.challenges.better_synth.config import Trainer
from vlforge.challenges.better_synth.folder import COMMAND, Kit, has_content
from vlforge.challenges.better_synth.kit_log import LOGS, read_stage_log
from vlforge.challenges.better_synth.own_run import TRAINED
from vlforge.challenges.better_synth.script import read_script
from vlforge.challenges.better_synth.solution import FOLDER
from vlforge.challenges.verdicts import Verdict, broken, kept
from vlforge.runs.store import write_text
from vlforge.types import RecipeError, VLForgeError

_TITLES = {"pretrain": "MGM-2B-Pretrain-", "finetune": "MGM-2B-Finetune-"}
_LARGEST = 20 << 20
"""Bytes of a file of the solution that is still taken for text or code."""
_MADE = ("__pycache__", ".ipynb_checkpoints")


@dataclass(frozen=True)
class Packed:
    """The written zip, its manifest, what it holds and what was left out."""

    zip: Path
    manifest: Path
    members: tuple[str, ...]
    left_out: tuple[str, ...]
    experiment: str
    scores: dict[str, Any]


class Refused(VLForgeError):
    """A rule is broken or a member is missing; nothing was written."""


def experiments(output: Path) -> list[str]:
    """Names of the experiments whose results or logs lie in an output folder."""
    title = _TITLES["finetune"]
    places = [output / "eval_results", output / "training_dirs"]
    found = {p.name for place in places if place.is_dir() for p in place.glob(f"{title}*")}
    return sorted(name.removeprefix(title) for name in found)


def package(
    kit: Kit, *, unofficial: bool, experiment: str | None = None, recipe: str | None = None
) -> Packed:
    """Write the zip and its manifest.

    Args:
        unofficial: what our own trainer left, marked in the name and in the manifest.
        experiment: whose results, where there are several.

    Raises:
        Refused: a broken rule or a missing member, by name, with the remedy.
        RecipeError: several experiments fit, or none.
    """
    trainer: Trainer = "vlforge" if unofficial else "kit"
    home, name = _chosen(kit, unofficial, experiment)
    members, left_out, lacks = _members(kit, home, name)
    verdicts = [*rules.common_rules(kit, trainer, recipe), *_logs(kit, home, name)]
    verdicts.append(rules.evaluation_files(kit))
    if not unofficial:
        verdicts.append(_packed_script(kit, home, name))
    faults = [one for one in verdicts if one.verdict == "broken"]
    faults += [
        broken("members", f"{member} is missing", f"{COMMAND} run {kit.named} makes it")
        for member in lacks
    ]
    if faults:
        raise Refused("\n".join(f"{one.rule}: {one.found}; {one.remedy}" for one in faults))
    stem = "submit-unofficial" if unofficial else "submit"
    target = kit.at(f"submit/{stem}.zip")
    made = write_archive(target, [Member(name, path) for name, path in members.items()])
    scores = scores_of(kit, home / "eval_results" / f"{_TITLES['finetune']}{name}",
                       f"{_TITLES['finetune']}{name}")  # fmt: skip
    manifest = target.with_suffix(".json")
    told = {
        "official": not unofficial,
        "trainer": trainer,
        "experiment": name,
        "scores": scores,
        "round": kit.round.name,
        "zip": {"name": target.name, "bytes": made.bytes, "sha256": made.sha256},
        "members": made.members,
        "rules": [asdict(one) for one in verdicts],
    }
    write_text(manifest, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    return Packed(target, manifest, tuple(members), tuple(left_out), name, scores)


def _chosen(kit: Kit, unofficial: bool, experiment: str | None) -> tuple[Path, str]:
    """The output folder and the experiment in it."""
    if unofficial:
        homes = {p.name: p for p in sorted(kit.at(TRAINED).glob("*")) if p.is_dir()}
        homes = {name: path for name, path in homes.items() if not name.startswith(".")}
    else:
        homes = dict.fromkeys(experiments(kit.at("output")), kit.at("output"))
    by = "our trainer" if unofficial else "the kit's trainer"
    trainer = "vlforge" if unofficial else "kit"
    if not homes:
        other = experiments(kit.at("output")) if unofficial else kit.at(TRAINED).is_dir()
        hint = (
            "leave --unofficial out for the kit's"
            if unofficial
            else ("--unofficial packs our trainer's")
        )
        raise RecipeError(
            f"{kit.folder}: no results of {by}; "
            + (f"{hint}, or " if other else "")
            + f"`{COMMAND} run {kit.named} --trainer {trainer}` makes them"
        )
    if experiment is not None and experiment not in homes:
        raise RecipeError(f"no experiment {experiment!r} of {by}; there are: {', '.join(homes)}")
    if experiment is None and len(homes) > 1:
        raise RecipeError(
            f"experiments: several fit ({', '.join(homes)}); name one with --experiment"
        )
    name = experiment or next(iter(homes))
    return homes[name], name


def _members(kit: Kit, home: Path, name: str) -> tuple[dict[str, Path], list[str], list[str]]:
    """Files by their names in the zip; what of the solution is left out; what is missing."""
    found: dict[str, Path] = {}
    left_out = []
    solution = kit.at(FOLDER)
    for path in sorted(solution.rglob("*")):
        inside = path.relative_to(solution)
        is_made = any(part.startswith(".") or part in _MADE for part in inside.parts)
        if not path.is_file() or is_made:
            continue
        if path.stat().st_size > _LARGEST:
            left_out.append(f"{FOLDER}/{inside}")
        else:
            found[f"{FOLDER}/{inside.as_posix()}"] = path
    tuned = f"{_TITLES['finetune']}{name}"
    results = home / "eval_results" / tuned
    for path in sorted(results.rglob("*")) if results.is_dir() else ():
        if path.is_file() and not path.name.startswith("."):
            found[f"output/{path.relative_to(home).as_posix()}"] = path
    wanted = {"output/train.sh": home / "train.sh"}
    for part, log in LOGS.items():
        place = f"training_dirs/{_TITLES[part]}{name}/{log}"
        wanted[f"output/{place}"] = home / place
    for path in answer_files(results, tuned).values():
        wanted[f"output/{path.relative_to(home).as_posix()}"] = path
    lacks = [member for member, path in wanted.items() if not has_content(path)]
    return dict(sorted((found | wanted).items())), left_out, lacks


def _logs(kit: Kit, home: Path, name: str) -> list[Verdict]:
    """Whether both logs tell of steps and of the training's end."""
    found = []
    for part, log in LOGS.items():
        path = home / "training_dirs" / f"{_TITLES[part]}{name}" / log
        if not path.is_file():
            continue
        said = read_stage_log(path)
        rule = f"{part}-log"
        if not said.runtime_s:
            found.append(broken(rule, f"{kit.shown(path)} does not tell of the training's end",
                                f"{COMMAND} run {kit.named} trains to the end"))  # fmt: skip
        else:
            steps = f"{len(said.losses):,} steps logged, {said.runtime_s / 3600:.2f} h"
            found.append(kept(rule, steps))
    return found


def _packed_script(kit: Kit, home: Path, name: str) -> Verdict:
    """Whether the script's copy that is handed in is the recorded one, of this experiment."""
    rule, path = "train-script", home / "train.sh"
    recorded = kit.recorded.get("script")
    if not path.is_file() or recorded is None:
        return broken(rule, "output/train.sh or its record is missing", "run the kit's trainer")
    try:
        script = read_script(path)
    except RecipeError as error:
        return broken(rule, str(error), "run the kit's trainer again")
    if script.values["EXP_NAME"] != name:
        return broken(
            rule, f"output/train.sh is of the experiment {script.values['EXP_NAME']!r}, not {name}",
            f"package that one, or {COMMAND} run {kit.named} --trainer kit EXP_NAME={name}",
        )  # fmt: skip
    return rules.judge_script(
        rule, script, recorded["fixed_sha256"], recorded["fixed_lines"], "output/train.sh"
    )
