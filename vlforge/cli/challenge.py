"""`vlforge challenge`: a contest's folder from its rules to what is handed in."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlforge.cli import challenge_ad_captions
from vlforge.cli.recipes import shipped_folder
from vlforge.cli.show import note_line, plain_line, progress, shown_path, table
from vlforge.cli.verdict_lines import say_verdicts
from vlforge.types import RecipeError

if TYPE_CHECKING:
    from vlforge.challenges.better_synth.check import Asked, Checked
    from vlforge.challenges.better_synth.folder import Kit
    from vlforge.challenges.better_synth.kit_log import KitLog

NAME = "better-synth"
BETTER_SYNTH_EXAMPLES = """\b
Examples:
  vlforge challenge better-synth init contest --toolkit ~/kit/toolkit --input ~/kit/input
  vlforge challenge better-synth check contest
  vlforge challenge better-synth run contest                   our trainer: what is worth it?
  vlforge challenge better-synth run contest --trainer kit EXP_NAME=second
  vlforge challenge better-synth package contest
"""
Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="The contestant's folder.", show_default=False)
]
TrainerName = Annotated[
    str | None,
    typer.Option("--trainer", help="vlforge or kit.", show_default="kit where it is there"),
]
RecipeName = Annotated[
    str | None, typer.Option(help="Of several recipes in solution/ the one to take.")
]
Data = Annotated[
    Path | None, typer.Option(help="Rows that were processed already; the recipe is not run.")
]
Experiment = Annotated[str | None, typer.Option(help="The experiment's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="All of it as JSON.")]


def build_app() -> typer.Typer:
    """The contests, each with its four verbs."""
    app = typer.Typer(help="Contests: rules, runs, packages.", no_args_is_help=True)
    better = typer.Typer(
        help="Better Synth: synthesise data for MGM-2B under a budget.",
        no_args_is_help=True,
        epilog=BETTER_SYNTH_EXAMPLES,
    )
    better.command("init")(init)
    better.command("check")(check)
    better.command("run")(run)
    better.command("package")(package)
    app.add_typer(better, name=NAME)
    app.add_typer(challenge_ad_captions.build_app(), name="ad-captions")
    return app


def init(
    folder: Folder,
    round_name: Annotated[
        str | None,
        typer.Option("--round", help="offline or online.", show_default="by the seed's folder"),
    ] = None,
    toolkit: Annotated[
        Path | None, typer.Option(help="The contest's toolkit/, where it lies elsewhere.")
    ] = None,
    input_: Annotated[
        Path | None, typer.Option("--input", help="The contest's input/, likewise.")
    ] = None,
) -> None:
    """Make or complete the folder; say what is missing; record what must not change.

    Nothing of yours is overwritten, and the same command goes on where files came later.
    """
    from vlforge.challenges.better_synth.folder import RECORD
    from vlforge.challenges.better_synth.start import begin

    done = begin(folder, _one_of(round_name, ("offline", "online"), "--round"), toolkit, input_)
    numbers = done.kit.round
    plain_line(
        f"Round   {numbers.name}: {numbers.seed_rows:,} seed rows, at most {numbers.most_rows:,} "
        f"are trained on, {numbers.instruction_rows:,} instructions"
    )
    if done.made:
        plain_line(f"Made    {', '.join(done.made)}")
    if done.recorded:
        plain_line(f"Noted   in {RECORD}: {', '.join(done.recorded)}")
    if not done.missing:
        plain_line(f"Next    vlforge challenge {NAME} check {shown_path(folder)}")
        return
    table(("missing", "belongs to"), [(one.name, one.place) for one in done.missing])
    for one in done.missing:
        if one.by_hand:
            plain_line(f"By hand {one.name}: {one.by_hand}")
    only = ",".join(one.name for one in done.missing if not one.by_hand)
    if only:
        plain_line(f"Fetch   vlforge fetch better_synth {shown_path(folder)} --only {only}")
    plain_line(f"Then    vlforge challenge {NAME} init {shown_path(folder)}")


def check(
    folder: Folder,
    trainer: TrainerName = None,
    recipe: RecipeName = None,
    data: Data = None,
    experiment: Experiment = None,
    contamination: Annotated[
        bool, typer.Option("--contamination", help="Compare pictures of a large seed too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look at every rule before an hour is spent; exit code 2 where one is broken."""
    kit, asked = _asked(folder, trainer, recipe, data, experiment, contamination)
    checked = _check(kit, asked)
    if as_json:
        told = {"folder": str(folder), "round": kit.round.name, "trainer": asked.trainer}
        print(json.dumps(told | checked.as_values(), ensure_ascii=False))
    else:
        say_verdicts(checked.verdicts)
        plain_line(f"Cost    {checked.cost_line()}")
        if not checked.broken:
            command = f"vlforge challenge {NAME} run {shown_path(folder)}"
            plain_line(f"Next    {command} --trainer {asked.trainer}")
    if checked.broken:
        raise typer.Exit(2)


def run(
    folder: Folder,
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]",
            help="Of the script's block (EXP_NAME=second), or our recipe (stages.align.lr=2e-3).",
            show_default=False,
        ),
    ] = None,
    trainer: Annotated[str, typer.Option(help="vlforge or kit.")] = "vlforge",
    recipe: RecipeName = None,
    data: Data = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Reuse nothing, train anew.")] = False,
) -> None:
    """Process, convert with restored questions, train both stages, ask both benchmarks.

    Rules come first. The same command goes on where it was stopped.
    """
    from vlforge.challenges.better_synth.config import EDITABLE

    words = [_pair(word) for word in changes or ()]
    values = {key: value for key, value in words if key.isupper()}
    overrides = [f"{key}={value}" for key, value in words if not key.isupper()]
    kit, asked = _asked(folder, trainer, recipe, data, values.get("EXP_NAME"), False)
    _check_values(values, EDITABLE)
    if asked.trainer == "kit" and overrides:
        raise RecipeError(
            f"{overrides[0]}: the kit's trainer takes values of its block alone: "
            f"{', '.join(EDITABLE)}"
        )
    if asked.trainer == "vlforge" and set(values) - {"EXP_NAME"}:
        named = sorted(set(values) - {"EXP_NAME"})[0]
        raise RecipeError(f"{named}: write it into the script, or name a setting of our recipe")
    checked = _check(kit, asked)
    _refuse(checked)
    plain_line(f"Cost    {checked.cost_line()}")
    if asked.trainer == "kit":
        _run_kit(kit, asked, values, fresh)
    else:
        _run_own(kit, asked, overrides, fresh)


def package(
    folder: Folder,
    unofficial: Annotated[
        bool, typer.Option("--unofficial", help="Pack what our own trainer left, marked so.")
    ] = False,
    experiment: Experiment = None,
    recipe: RecipeName = None,
) -> None:
    """Write submit/submit.zip with the required members alone, and its manifest beside it."""
    from vlforge.challenges.better_synth import package as packing
    from vlforge.challenges.better_synth.folder import open_kit

    done = packing.package(
        open_kit(folder), unofficial=unofficial, experiment=experiment, recipe=recipe
    )
    table(("member", "bytes"), _sizes(done.zip), right=(1,))
    for name in done.left_out:
        note_line(f"{name} is left out: too large for a solution")
    _say_scores(done.scores)
    if unofficial:
        plain_line("This package is unofficial: the contest takes its own trainer's alone")
    plain_line(f"Package {shown_path(done.zip)}")
    plain_line(f"Told in {shown_path(done.manifest)}")


def _asked(
    folder: Path,
    trainer: str | None,
    recipe: str | None,
    data: Path | None,
    experiment: str | None,
    contamination: bool,
) -> tuple[Kit, Asked]:
    from vlforge.challenges.better_synth.check import Asked
    from vlforge.challenges.better_synth.folder import open_kit

    chosen = _one_of(trainer, ("vlforge", "kit"), "--trainer")
    kit = open_kit(folder)
    if data is not None and not data.is_file():
        raise RecipeError(f"--data {data}: no such file")
    published = shipped_folder() / "better_synth" / "published.yaml"
    place = data.absolute() if data else None
    return kit, Asked(
        published, chosen or kit.usual_trainer, recipe, place, experiment, contamination
    )


def _check(kit: Kit, asked: Asked) -> Checked:
    from vlforge.challenges.better_synth.check import check_kit

    with progress("rules") as shown:
        return check_kit(kit, asked, shown)


def _refuse(checked: Checked) -> None:
    """Stop where a rule is broken; say what else is to be known.

    Raises:
        RecipeError: every broken rule by its name, with the remedy.
    """
    for one in checked.verdicts:
        if one.verdict == "warning":
            note_line(f"{one.rule}: {one.found}; {one.remedy}")
    if checked.broken:
        raise RecipeError(
            "\n".join(f"{one.rule}: {one.found}; {one.remedy}" for one in checked.broken)
        )


def _run_own(kit: Kit, asked: Asked, overrides: list[str], fresh: bool) -> None:
    from vlforge.challenges.better_synth.own_run import TRAINED, train_own

    begun = _bytes(kit)
    result = train_own(kit, asked, overrides, fresh=fresh)
    metrics = json.loads(next(result.run_dir.glob("*-score*/metrics.json")).read_text("utf-8"))
    _say_scores(metrics)
    plain_line(f"{result.nodes_run} stages run, {result.nodes_reused} reused")
    _say_measured(result.seconds, _bytes(kit) - begun)
    if result.report:
        plain_line(f"Report  {shown_path(result.report)}")
    plain_line(f"Results {shown_path(kit.at(TRAINED))}")
    several = len(list(kit.at(TRAINED).glob("[!.]*"))) > 1
    named = f" --experiment {result.run_dir.name}" if several else ""
    command = f"vlforge challenge {NAME} package {shown_path(kit.folder)} --unofficial{named}"
    plain_line(f"Next    {command}")


def _run_kit(kit: Kit, asked: Asked, values: dict[str, str], fresh: bool) -> None:
    from vlforge.challenges.better_synth.benchmark_files import scores_of
    from vlforge.challenges.better_synth.check import gpus_here
    from vlforge.challenges.better_synth.kit_run import Places, run_kit, settle_values
    from vlforge.challenges.better_synth.own_run import process_for_kit
    from vlforge.challenges.better_synth.package import experiments

    begun = _bytes(kit)
    rows, seconds, remark = process_for_kit(kit, asked, fresh=fresh)
    if remark:
        note_line(f"{shown_path(rows)}: {remark}")
    script = settle_values(kit, rows, gpus_here(), values)
    with _KitDisplay() as shown:
        seconds += run_kit(kit, script, shown.take, fresh=fresh)
    places = Places(kit, script.values["EXP_NAME"])
    _say_scores(scores_of(kit, places.results, places.name))
    _say_measured(seconds, _bytes(kit) - begun)
    plain_line(f"Logs    {shown_path(places.pretrain)}, {shown_path(places.finetune)}")
    plain_line(f"Results {shown_path(places.results)}")
    several = len(experiments(kit.at("output"))) > 1
    named = f" --experiment {places.experiment}" if several else ""
    plain_line(f"Next    vlforge challenge {NAME} package {shown_path(kit.folder)}{named}")


class _KitDisplay:
    """The kit's parts as a run of ours shows its stages."""

    def __enter__(self) -> _KitDisplay:
        from vlforge.challenges.better_synth.kit_log import PARTS
        from vlforge.runs.display import Display

        self._display = Display(len(PARTS))
        self._display.__enter__()
        self._part = ""
        self._begun = time.monotonic()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._part and error[0] is None:
            self._end()
        self._display.__exit__(*error)

    def take(self, log: KitLog, ended: str | None) -> None:
        """A line of the kit's was read."""
        if log.part != self._part:
            if self._part:
                self._end()
            self._part, self._begun = log.part, time.monotonic()
            self._display.start(self._part)
        self._display.progress(self._part, log.done, log.total, log.note)

    def _end(self) -> None:
        self._display.finish(self._part, time.monotonic() - self._begun, reused=False)


def _say_scores(scores: dict[str, Any]) -> None:
    rows = []
    for name, found in scores.items():
        value = found.get("score")
        shown = found.get("why", "no answers known") if value is None else f"{100 * value:.1f} %"
        rows.append((name, shown, found.get("n", ""), found.get("protocol", "")))
    table(("benchmark", "score", "n", "protocol"), rows, right=(1, 2))


def _say_measured(taken: float, more: int) -> None:
    from vlforge.data.fetch.unpack import amount
    from vlforge.reports.numbers import seconds

    plain_line(f"Cost    measured {seconds(taken)}, {amount(max(0, more))} disk")


def _bytes(kit: Kit) -> int:
    from vlforge.challenges.better_synth.folder import bytes_below

    return bytes_below(kit.at("output"))


def _sizes(path: Path) -> list[tuple[str, str]]:
    import zipfile

    with zipfile.ZipFile(path) as packed:
        return [(one.filename, f"{one.file_size:,}") for one in packed.infolist()]


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"{word!r} is not of the form KEY=VALUE, e.g. EXP_NAME=second")
    return key.strip(), value


def _check_values(values: dict[str, str], known: dict[str, str]) -> None:
    from vlforge.recipe.nearest import nearest

    for name in values:
        if name not in known:
            raise RecipeError(
                f"{name} is no value of the script's block{nearest(name, known)}; "
                f"it has: {', '.join(known)}"
            )


def _one_of(given: str | None, known: tuple[str, ...], option: str) -> Any:
    if given is not None and given not in known:
        raise RecipeError(f"{option} {given}: take {' or '.join(known)}")
    return given
