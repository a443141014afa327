"""`vlforge compat`: an old command line is run as ours, and ours is shown."""

from __future__ import annotations

import os
import shlex
from typing import Annotated

import typer

from vlforge.cli.show import note_line, plain_line

FREE_OPTIONS = {"ignore_unknown_options": True, "allow_interspersed_args": False}
DEVICES = "CUDA_VISIBLE_DEVICES"
EXAMPLES = """\b
Examples:
  vlforge compat dj-process --config solution/image_captioning.yaml
  vlforge compat bash toolkit/train_mgm_2b_stage_1.sh
  vlforge compat NPROC_PER_NODE=8 xtuner train CFG --deepspeed deepspeed_zero2
  vlforge compat torchrun --nproc-per-node 4 train.py --cfg-path minigpt4_stage1_pretrain.yaml
  vlforge compat --dry-run sh run.sh INPUT OUTPUT WEIGHTS     only say what ours would be
  vlforge list commands                                       all that are known
"""


def compat(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="OLD COMMAND LINE", help="As it was typed.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print our commands; run nothing.")
    ] = False,
) -> None:
    """Run a command of Data-Juicer, MGM, LLaVA, XTuner, MiniGPT-4 or PaddleMIX as ours.

    Settings before it (NPROC_PER_NODE=8) and launchers (torchrun, deepspeed) may stay
    where they are. Each of our commands is printed before it runs: take those from then on.
    """
    from vlforge.cli.familiar.every import translate
    from vlforge.cli.familiar.old import take_apart
    from vlforge.cli.start import main

    old = take_apart(words or [])
    ours = translate(old)
    for note in ours.notes:
        note_line(note)
    if DEVICES in old.env:
        os.environ[DEVICES] = old.env[DEVICES]
    for command in ours.commands:
        plain_line(f"$ {shlex.join(['vlforge', *command])}")
        code = 0 if dry_run else main(command)
        if code:
            raise typer.Exit(code)
