"""`vlforge challenge ad-captions`: the ad-captioning contest from its files to submission.zip."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlforge.cli.clean import size_text
from vlforge.cli.show import note_line, plain_line, progress, shown_path, table
from vlforge.cli.verdict_lines import say_verdicts
from vlforge.types import DataError, RecipeError

if TYPE_CHECKING:
    from vlforge.challenges.ad_captions.layout import Kit
    from vlforge.challenges.ad_captions.rules import Looked

COMMAND = "vlforge challenge ad-captions"
EXAMPLES = f"""\b
Examples:
  {COMMAND} init ads
  {COMMAND} check ads
  {COMMAND} run ads                            LoRA, as lora_sft_argument.json says
  {COMMAND} run ads --mode full learning_rate=5e-6
  {COMMAND} package ads --src ads/src          your own Paddle source
  {COMMAND} package ads --without-weights
Stopped or killed, the same run goes on.
"""
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The contest's folder.")]
Mode = Annotated[
    Literal["lora", "full"],
    typer.Option(help="LoRA, or all of the language model and the resampler."),
]
Changes = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Arguments of the JSON (learning_rate=2e-5) or of the recipe (stages.tune.cache=on).",
        show_default=False,
    ),
]
Weights = Annotated[
    Path | None, typer.Option(help="Weights to hand in.", show_default="those of the last run")
]
ValEvery = Annotated[
    int,
    typer.Option(min=0, help="One picture of so many is asked about.", show_default="20 or more"),
]


def build_app() -> typer.Typer:
    """The four verbs of the contest."""
    app = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help="Ad captions in Chinese (MGen-VL, PaddleMIX): the contest's folder, rules, training "
        "and package.",
        epilog=EXAMPLES,
    )
    app.command("init")(init)
    app.command("check")(check)
    app.command("run")(run)
    app.command("package")(package)
    return app


def init(folder: Folder) -> None:
    """Lay the folder out, or complete it.

    What is there stays as it is. The contest's own files are what `vlforge fetch mgen_vl` says.
    """
    from vlforge.challenges.ad_captions.layout import lay_out

    parts = lay_out(folder)
    table(("what", "is", "for"), [(shown_path(p.path), p.state, p.about) for p in parts])
    if any(part.state == "missing" for part in parts):
        plain_line(f"Next    vlforge fetch mgen_vl {folder}")
    else:
        plain_line(f"Next    {COMMAND} check {folder}")


def check(
    folder: Folder,
    mode: Mode = "lora",
    weights: Weights = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Verdicts, and all rows that are left out, as JSON.")
    ] = False,
) -> None:
    """Hold the folder to the contest's rules.

    Each has its name, a verdict and where needed a remedy; exit code 2 where one is broken.
    """
    looked = _look(_kit(folder), mode, weights)
    if as_json:
        from vlforge.challenges.ad_captions.rules import as_json as told

        plain_line(told(looked))
    else:
        say_verdicts(looked.verdicts)
    if looked.broken:
        raise typer.Exit(2)
    if not as_json:
        plain_line(f"Next    {COMMAND} run {folder} --mode {mode}")


def run(
    folder: Folder,
    changes: Changes = None,
    mode: Mode = "lora",
    val_every: ValEvery = 0,
    until: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")
    ] = None,
) -> None:
    """Train, caption and score.

    The data is divided, no picture on both sides; after training the weights are written as
    Paddle's, the other half is captioned and scored. The same command goes on where it stopped.
    """
    from vlforge.challenges.ad_captions import running
    from vlforge.reports.numbers import seconds
    from vlforge.runs.prepare import Choice
    from vlforge.runs.run import run_recipe

    kit = _kit(folder)
    words = running.split_words(changes or ())
    looked = _look(kit, mode, quick=True, overrides=words.overrides)
    if looked.broken:
        say_verdicts(looked.verdicts)
        raise typer.Exit(2)
    with progress("data") as shown:
        told: list[str] = []
        recipe = running.prepare(
            kit, mode, words.arguments, told.append, val_every=val_every, progress=shown
        )
    for line in told:
        plain_line(line)
    plain_line(f"Recipe  {shown_path(recipe)}")
    choice = Choice(run_dir=kit.run_dir(mode), overrides=words.overrides, until=until)
    result = run_recipe(recipe, choice)
    done = f"{result.nodes_run} stages run, {result.nodes_reused} reused"
    plain_line(f"Run     {shown_path(result.run_dir)}: {done}, {seconds(result.seconds)}")
    if until is not None:
        return
    plain_line(f"Report  {shown_path(result.run_dir / 'report.html')}")
    plain_line(f"Weights {running.check_trained(kit, mode)}")
    found = running.scores(kit, mode)
    plain_line("Scores  " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
    plain_line(f"Next    {COMMAND} package {folder}")


def package(
    folder: Folder,
    weights: Weights = None,
    src: Annotated[
        Path | None, typer.Option(help="Your own Paddle source, with predict.py in it.")
    ] = None,
    mode: Annotated[
        Literal["lora", "full"] | None,
        typer.Option(help="Whose weights.", show_default="the last run's"),
    ] = None,
    weights_only: Annotated[bool, typer.Option("--weights-only", help="Weights alone.")] = False,
    without_weights: Annotated[
        bool, typer.Option("--without-weights", help="All but the weights.")
    ] = False,
) -> None:
    """Write submit/submission.zip.

    requirements.txt, weights/, run.sh and src/ with predict.py; its manifest lies beside it.
    """
    from vlforge.challenges.ad_captions import packing, running
    from vlforge.challenges.ad_captions.weights import changes, outline

    if weights_only and without_weights:
        raise RecipeError("--weights-only and --without-weights: take one of them")
    kit = _kit(folder)
    holds: packing.Holds = "weights" if weights_only else "code" if without_weights else "all"
    chosen = mode or running.last_mode(kit)
    if weights is None and holds != "code":
        weights = running.trained(kit, chosen)
    if weights is not None and holds != "code":
        found = changes(outline(kit.base(chosen)), outline(weights))
        if found:
            raise DataError(f"{weights}: breaks llm-structure: {'; '.join(found)}")
    files = packing.members(weights, src, holds)
    facts = {"official": src is not None, "holds": holds, "mode": chosen}
    with progress("package") as shown:
        done = packing.write_package(files, kit.submit / packing.NAMES[holds], facts, shown)
    if src is None and holds != "weights":
        note_line(
            "src/ is VLForge's predict.py, which runs on torch; an official submission is Paddle "
            "code: --src FOLDER"
        )
    plain_line(f"Package {shown_path(done.path)}: {done.members} files, {size_text(done.bytes)}")
    plain_line(f"sha256  {done.sha256}")
    plain_line(f"Listed  {shown_path(done.manifest)}")


def _kit(folder: Path) -> Kit:
    from vlforge.challenges.ad_captions.layout import Kit

    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {COMMAND} init {folder}")
    return Kit(folder)


def _look(
    kit: Kit,
    mode: Literal["lora", "full"],
    weights: Path | None = None,
    *,
    quick: bool = False,
    overrides: tuple[str, ...] = (),
) -> Looked:
    from vlforge.challenges.ad_captions.rules import NO_CHECKPOINTS, check_kit

    how = {"quick": quick, "checkpoints": NO_CHECKPOINTS not in overrides}
    with progress("check") as shown:
        return check_kit(kit, mode, weights=weights, progress=shown, **how)
