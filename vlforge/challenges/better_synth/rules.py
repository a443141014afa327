"""The contest's rules, one function each: looked at before any hour is spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from vlforge.challenges.better_synth.config import (
    CODE,
    EDITABLE,
    EVAL_SCRIPTS,
    GLOBAL_BATCH,
    MODELS,
    SPLIT,
    Stage,
    Trainer,
)
from vlforge.challenges.better_synth.folder import COMMAND, RECORD, Kit, code_files, fingerprint
from vlforge.challenges.better_synth.model_files import fault_of
from vlforge.challenges.better_synth.script import TrainScript
from vlforge.challenges.better_synth.solution import FOLDER, read_solution, recipes_in
from vlforge.challenges.verdicts import Verdict, broken, kept, warning
from vlforge.types import RecipeError

Rule = Callable[[Kit], Verdict]
_SHOWN = 3
_FETCH = "vlforge fetch better_synth"
_CAPTIONER = "blip2-opt-2.7b"


def synthesis_step(kit: Kit, wanted: str | None = None) -> Verdict:
    """The solution's recipe has an operator that synthesises."""
    rule = "synthesis-step"
    try:
        solution = read_solution(kit.folder, wanted)
        found = solution.synthesising()
    except RecipeError as error:
        return broken(rule, str(error), "mend the recipe")
    name = kit.shown(solution.path)
    if found:
        return kept(rule, f"{name}: {', '.join(found)}")
    listed = ", ".join(solution.operators) or "no operator"
    return broken(
        rule,
        f"{name} only has {listed}: none of them writes or draws anything new",
        "add a mapper that asks a model, such as image_captioning_mapper "
        "(`vlforge list ops` names them)",
    )


def solution_models(kit: Kit, wanted: str | None = None) -> Verdict:
    """The models that the solution's operators open are there."""
    rule = "solution-models"
    try:
        names = read_solution(kit.folder, wanted).local_models()
    except RecipeError as error:
        return broken(rule, str(error), "mend the recipe")
    lacks = [name for name in names if not kit.at(name).is_dir() and not Path(name).is_dir()]
    if not lacks:
        shown = ", ".join(Path(name).name for name in names)
        return kept(rule, shown or "none is opened here")
    fetched = [name for name in lacks if Path(name).name == _CAPTIONER]
    remedy = f"{_FETCH} {kit.named} --only captioner brings {kit.folder.name}/models/{_CAPTIONER}"
    return broken(
        rule,
        f"{', '.join(lacks)}: no such folder",
        remedy if fetched else "name a folder, or one of the recipe's endpoints",
    )


def solution_files(kit: Kit) -> Verdict:
    """The solution has what is handed in: a recipe, a readme, requirements."""
    folder = kit.at(FOLDER)
    names = {path.name.lower() for path in folder.glob("*")} if folder.is_dir() else set()
    lacks = [] if recipes_in(folder) else ["a recipe"]
    lacks += [] if any(name.startswith("readme") for name in names) else ["a readme"]
    lacks += [] if "requirements.txt" in names else ["requirements.txt"]
    if not lacks:
        return kept("solution-files", "recipe, readme, requirements.txt")
    return broken(
        "solution-files",
        f"{FOLDER}/ lacks {', '.join(lacks)}",
        f"`{COMMAND} init {kit.named}` writes what is missing",
    )


def editable_only(kit: Kit) -> Verdict:
    """Of the train script nothing but the values of its editable block has changed."""
    rule = "editable-values"
    script = kit.script()
    if script is None:
        return warning(
            rule, "toolkit/ has no train script", "take the contest's kit for `run --trainer kit`"
        )
    recorded = kit.recorded.get("script")
    name = kit.shown(script.path)
    if recorded is None:
        return warning(
            rule, f"{name} was not recorded", f"give `{COMMAND} init {kit.named}` once more"
        )
    return judge_script(rule, script, recorded["fixed_sha256"], recorded["fixed_lines"], name)


def judge_script(
    rule: str, script: TrainScript, digest: str, lines: list[str], name: str
) -> Verdict:
    """Whether a script is the recorded one but for the values of its block."""
    if any(line.endswith("\r") for line in script.lines):
        return broken(
            rule, f"{name} has Windows line ends, which bash cannot run", "save it with LF alone"
        )
    if script.fixed_digest != digest:
        changed = script.differences(lines)
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        return broken(
            rule,
            f"{name} has changed where it is fixed: {'; '.join(changed[:_SHOWN])}{more}",
            "put these lines back; only the values between the two banners are yours",
        )
    strays = script.strays()
    if strays:
        return broken(
            rule,
            f"{name}: {strays[0]} is none of the block's values",
            f"take it out; the block may set {', '.join(EDITABLE)}",
        )
    return kept(rule, f"{name}: fixed part as at init ({digest[:12]})")


def global_batch(kit: Kit, gpus: int) -> Verdict:
    """Per-GPU batch x accumulation x GPUs is 256 and 128."""
    rule = "global-batch"
    script = kit.script()
    if script is None:
        found = [f"{stage} {wanted}" for stage, wanted in GLOBAL_BATCH.items()]
        return kept(rule, f"{', '.join(found)}, as published")
    gpus = script.visible_gpus or gpus
    verdicts = [_batch_of(script, stage, gpus) for stage in SPLIT]
    for grade in ("broken", "warning"):
        bad = [one for one in verdicts if one.verdict == grade]
        if bad:
            remedies = "; ".join(one.remedy for one in bad)
            return Verdict(rule, bad[0].verdict, "; ".join(one.found for one in bad), remedies)
    return kept(rule, "; ".join(one.found for one in verdicts))


def _batch_of(script: TrainScript, stage: Stage, gpus: int) -> Verdict:
    rule, wanted = "global-batch", GLOBAL_BATCH[stage]
    batch, times = SPLIT[stage]
    try:
        rows, passes = script.number(batch), script.number(times)
    except RecipeError as error:
        return broken(rule, str(error), f"set {batch} and {times}")
    product = rows * passes
    said = f"{stage} {rows} x {passes} x {gpus} GPU{'s' if gpus > 1 else ''} = {product * gpus}"
    if product * gpus == wanted:
        return kept(rule, said)
    where = f"{said} at {script.where(batch)}, not {wanted}"
    if wanted % gpus:
        return broken(rule, where, f"no split gives {wanted} on {gpus} GPUs: show it fewer, by "
                      "CUDA_VISIBLE_DEVICES")  # fmt: skip
    fit = _fitting(rows, wanted // gpus)
    remedy = f"set {batch}={fit[0]} and {times}={fit[1]}"
    if wanted % product == 0:
        return warning(rule, where, f"{remedy}; `run` does so by itself")
    return broken(rule, where, remedy)


def fitting_split(script: TrainScript, stage: Stage, gpus: int) -> dict[str, str]:
    """The block's values that give the stage its global batch on so many GPUs.

    Raises:
        RecipeError: no split does.
    """
    wanted = GLOBAL_BATCH[stage]
    if wanted % gpus:
        raise RecipeError(f"no split gives a global batch of {wanted} on {gpus} GPUs")
    batch, times = SPLIT[stage]
    rows, passes = _fitting(script.number(batch), wanted // gpus)
    return {batch: str(rows), times: str(passes)}


def _fitting(rows: int, each: int) -> tuple[int, int]:
    """(rows, passes) whose product is `each`, with no more rows at once than asked for."""
    rows = next(n for n in range(min(rows, each), 0, -1) if each % n == 0)
    return rows, each // rows


def training_code(kit: Kit) -> Verdict:
    """The kit's training and evaluation code is as it was given out."""
    recorded = kit.recorded.get("training-code") or {}
    if not recorded:
        return warning(
            "training-code",
            f"{CODE} has no code",
            "put the contest's toolkit there for `run --trainer kit` and for a package",
        )
    verdict = _as_recorded(kit, "training-code", "put the contest's own files back")
    if verdict.verdict == "broken":
        return verdict
    known = set(recorded)
    added = [name for path in code_files(kit.at(CODE)) if (name := kit.shown(path)) not in known]
    if added:
        return warning(
            "training-code",
            f"{len(added)} files came to {CODE} since init: {', '.join(added[:_SHOWN])}",
            "take them away unless the kit made them",
        )
    return verdict


def finetuning_data(kit: Kit) -> Verdict:
    """The fixed finetuning set is untouched."""
    if not kit.finetuning.is_file():
        return broken(
            "finetuning-data",
            f"{kit.shown(kit.finetuning)} is not there",
            f"{_FETCH} {kit.named} --only {_items(kit, 'finetune')}",
        )
    return _as_recorded(
        kit, "finetuning-data",
        f"put the given files back: {_FETCH} {kit.named} --only {_items(kit, 'finetune')}",
    )  # fmt: skip


def _items(kit: Kit, stem: str) -> str:
    prefix = "full-" if kit.round.group == "full" else ""
    return f"{prefix}{stem},{prefix}{stem}-rows"


def _as_recorded(kit: Kit, group: str, remedy: str) -> Verdict:
    """Whether a group's files are those that were recorded."""
    recorded = kit.recorded.get(group) or {}
    if not recorded:
        again = f"give `{COMMAND} init {kit.named}` once more"
        return warning(group, "no hash was recorded of it", again)
    faults = list(_changes(kit, recorded))
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        return broken(group, f"{'; '.join(faults[:_SHOWN])}{more}", remedy)
    count = sum(one.get("files", 1) for one in recorded.values())
    return kept(group, f"{count:,} files as recorded in {RECORD}")


def _changes(kit: Kit, recorded: dict[str, dict[str, object]]) -> Iterator[str]:
    for name, was in recorded.items():
        now = fingerprint(Path(name) if Path(name).is_absolute() else kit.at(name))
        if now is None:
            yield f"{name} is gone"
        elif now == was:
            continue
        elif "files" in was and now.get("files") != was["files"]:
            yield f"{name} has {now.get('files')} files, {was['files']} at init"
        else:
            yield f"{name} has changed since init"


def evaluation_files(kit: Kit) -> Verdict:
    """The benchmarks' files are there, whole and as recorded."""
    from vlforge.challenges.better_synth.benchmark_files import faults_of

    remedy = f"{_FETCH} {kit.named} --only benchmarks"
    faults, told = faults_of(kit)
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        return broken("evaluation-files", f"{'; '.join(faults[:_SHOWN])}{more}", remedy)
    verdict = _as_recorded(kit, "evaluation-files", remedy)
    return kept(verdict.rule, told) if verdict.verdict == "kept" else verdict


def eval_scripts(kit: Kit) -> Verdict:
    """The kit's own evaluation scripts are there."""
    absent = [name for name in EVAL_SCRIPTS if not kit.at(name).is_file()]
    if absent:
        return broken(
            "evaluation-scripts", f"{', '.join(absent)} not there", "take them from the kit"
        )
    return kept("evaluation-scripts", ", ".join(EVAL_SCRIPTS))


def models(kit: Kit) -> Verdict:
    """MGM-2B's parts are there, each in its layout."""
    faults, there = [], []
    items = {"language": "gemma-2b-it", "vision": "clip", "vision_high": "convnext"}
    lacks = []
    for part in MODELS:
        folder = kit.model(part)
        fault = fault_of(folder, part)
        if fault:
            faults.append(f"{kit.shown(folder)}: {fault}")
            lacks.append(items[part])
        else:
            there.append(folder.name)
    if faults:
        return broken("models", "; ".join(faults), f"{_FETCH} {kit.named} --only {','.join(lacks)}")
    return kept("models", ", ".join(there))


def paths_for_the_kit(kit: Kit) -> Verdict:
    """The script does not quote its paths, so none of them may hold a blank."""
    if any(sign in str(kit.folder) for sign in " \t\n'\"$&;()"):
        return broken(
            "paths", f"{kit.folder}: the kit's script does not quote its paths",
            "move the folder to a path of letters, digits and - _ . only",
        )  # fmt: skip
    return kept("paths", "none with blanks")


def common_rules(kit: Kit, trainer: Trainer, recipe: str | None = None) -> list[Verdict]:
    """The rules about files that hold for a run and for a package."""
    verdicts = [
        synthesis_step(kit, recipe),
        solution_files(kit),
        editable_only(kit),
        training_code(kit),
        finetuning_data(kit),
    ]
    if trainer == "kit":
        verdicts += [eval_scripts(kit), paths_for_the_kit(kit)]
        return [_required(one) for one in verdicts]
    return verdicts


def _required(verdict: Verdict) -> Verdict:
    """What our trainer can do without and the kit's cannot."""
    if verdict.verdict == "warning" and verdict.rule in ("editable-values", "training-code"):
        has_files = "came to" in verdict.found
        return verdict if has_files else broken(verdict.rule, verdict.found, verdict.remedy)
    return verdict
