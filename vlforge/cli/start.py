"""Assembles the verbs and turns what goes wrong into one line and an exit code.

Exit codes: 0 done; 1 an error inside VLForge; 2 something the user can mend;
130 stopped with Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from vlforge import __version__
from vlforge.cli import (
    adopt,
    analyze,
    challenge,
    chat,
    check,
    clean,
    compare,
    compat,
    convert,
    convert_model,
    download,
    evaluate,
    fetch,
    inspect,
    lists,
    merge,
    miniature,
    mix,
    plan,
    predict,
    process,
    quickstart,
    repair,
    report,
    run,
    serve,
    split,
    tool,
    train,
    view,
    watch,
    web,
    why,
)
from vlforge.cli.show import error_line, plain_line
from vlforge.runs.launch import Launch, find_launch, without_local_rank
from vlforge.types import VLForgeError

DEBUG = "VLFORGE_DEBUG"
LEADING = {"run", "train", "quickstart"}
"""Verbs whose stages processes of several machines train together."""
ENDS = {"done": 0, "failed": 2, "stopped": 130}
CONTINUABLE = {
    "challenge",
    "download",
    "fetch",
    "run",
    "process",
    "train",
    "eval",
    "predict",
    "quickstart",
}

PLACES = {
    errno.ENOSPC: "free some space and give the same command again",
    errno.EDQUOT: "free some space and give the same command again",
    errno.ENOENT: "name a place that exists",
    errno.EACCES: "name a place that you may read and write",
    errno.EPERM: "name a place that you may read and write",
    errno.EROFS: "name a place that can be written",
    errno.ENOTDIR: "name a folder",
}
"""Faults of a place that the user can mend, and how."""
EXAMPLES = """\b
Examples:
  vlforge quickstart                                  the whole loop in small
  vlforge plan recipes/photos.yaml                    what it will cost
  vlforge run recipes/photos.yaml stages.align.lr=5e-4
  vlforge analyze rows.jsonl                          what is in a dataset
  vlforge check llava.json                            what is wrong with it
  vlforge convert rows.jsonl llava.json --to llava
  vlforge process --config clean.yaml --np 8          a Data-Juicer recipe
  vlforge chat runs/quickstart/instruct --image cat.jpg
"""


def _version(wanted: bool) -> None:
    if wanted:
        plain_line(f"vlforge {__version__}")
        raise typer.Exit()


def _about(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Data, model, score, better data: the loop of a vision-language model."""


def build_app() -> typer.Typer:
    """All verbs, in the order of the help page."""
    app = typer.Typer(
        name="vlforge",
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
        epilog=EXAMPLES,
    )
    app.callback()(_about)
    app.command("quickstart", epilog=quickstart.EXAMPLES)(quickstart.quickstart)
    app.command("run", epilog=run.EXAMPLES)(run.run)
    app.command("plan", epilog=plan.EXAMPLES)(plan.plan)
    app.command("check", epilog=check.EXAMPLES)(check.check)
    app.command("process", epilog=process.EXAMPLES, context_settings=process.FREE_OPTIONS)(
        process.process
    )
    app.command("analyze", epilog=analyze.EXAMPLES, context_settings=process.FREE_OPTIONS)(
        analyze.analyze
    )
    app.command("view", epilog=view.EXAMPLES)(view.view)
    app.command("inspect", epilog=inspect.EXAMPLES)(inspect.inspect)
    app.command("convert", epilog=convert.EXAMPLES)(convert.convert)
    app.command("convert-model", epilog=convert_model.EXAMPLES)(convert_model.convert_model)
    app.command("merge", epilog=merge.EXAMPLES)(merge.merge)
    app.command("adopt", epilog=adopt.EXAMPLES)(adopt.adopt)
    app.command("compat", epilog=compat.EXAMPLES, context_settings=compat.FREE_OPTIONS)(
        compat.compat
    )
    app.command("tool", epilog=tool.EXAMPLES, context_settings=tool.FREE_OPTIONS)(tool.tool)
    app.command("repair", epilog=repair.EXAMPLES)(repair.repair)
    app.command("mix", epilog=mix.EXAMPLES)(mix.mix)
    app.command("split", epilog=split.EXAMPLES)(split.split)
    app.command("download", epilog=download.EXAMPLES, context_settings=download.FREE_OPTIONS)(
        download.download
    )
    app.command("fetch", epilog=fetch.EXAMPLES)(fetch.fetch)
    app.command("miniature", epilog=miniature.EXAMPLES)(miniature.miniature)
    app.command("train", epilog=train.EXAMPLES)(train.train)
    app.add_typer(challenge.build_app(), name="challenge")
    app.add_typer(evaluate.build_app(), name="eval")
    app.command("watch", epilog=watch.EXAMPLES)(watch.watch)
    app.command("chat", epilog=chat.EXAMPLES)(chat.chat)
    app.command("web", epilog=web.EXAMPLES)(web.web)
    app.command("serve", epilog=serve.EXAMPLES)(serve.serve_models)
    app.command("predict", epilog=predict.EXAMPLES)(predict.predict)
    app.command("compare", epilog=compare.EXAMPLES)(compare.compare)
    app.command("report", epilog=report.EXAMPLES)(report.report)
    app.command("why", epilog=why.EXAMPLES)(why.why)
    app.command("clean", epilog=clean.EXAMPLES)(clean.clean)
    app.add_typer(lists.build_app(), name="list")
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        launch = find_launch()
    except VLForgeError as error:
        error_line(str(error))
        return 2
    if launch is None:
        return _obey(given)
    given = without_local_rank(given)
    if launch.rank:
        return _take_part(launch, given)
    return _lead(launch, given)


def _lead(launch: Launch, given: Sequence[str]) -> int:
    """As the first of several processes, with which the others end."""
    if not LEADING.intersection(given[:1]):
        return _obey(given)
    from vlforge.runs.control import leading

    try:
        with leading(launch):
            code = _obey(given)
            if code:
                sys.exit(code)
    except SystemExit as error:
        return int(error.code or 0)
    except VLForgeError as error:
        error_line(str(error))
        return 2
    return 0


def _take_part(launch: Launch, given: Sequence[str]) -> int:
    """As another of several processes; verbs that train nothing are the first one's alone."""
    if not LEADING.intersection(given[:1]):
        return 0
    from vlforge.runs.follow import follow

    try:
        return ENDS[follow(launch)]
    except VLForgeError as error:
        error_line(str(error))
        return 2
    except KeyboardInterrupt:
        return 130


def _obey(given: Sequence[str]) -> int:
    """One command line in this process."""
    command = typer.main.get_command(build_app())
    try:
        code = command.main(given, prog_name="vlforge", standalone_mode=False)
    except VLForgeError as error:
        error_line(str(error))
        return 2
    except Exception as error:
        return _unexpected(error)
    if code == 130:
        _say_how_to_continue(given)
    return code if isinstance(code, int) else 0


def _unexpected(error: Exception) -> int:
    """A usage error of the parser in one line, or a fault of ours with how to see more."""
    if hasattr(error, "format_message"):
        return _usage(error)
    if isinstance(error, BrokenPipeError):
        # The reader (`| head`) has seen enough; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if os.environ.get(DEBUG):
        raise error
    if isinstance(error, OSError) and error.errno in PLACES:
        where = f"{error.filename}: " if error.filename else ""
        error_line(f"{where}{error.strerror}; {PLACES[error.errno]}")
        return 2
    text = " ".join(str(error).split())
    error_line(f"{type(error).__name__}: {text}; run again with {DEBUG}=1 for the traceback")
    return 1


def _usage(error: Any) -> int:
    message = error.format_message()
    context = getattr(error, "ctx", None)
    if context is not None and message == context.get_help():
        plain_line(message)
        return 0
    path = context.command_path if context is not None else "vlforge"
    error_line(f"{message.rstrip('.?')}; see `{path} --help`")
    return int(error.exit_code)


def _say_how_to_continue(given: Sequence[str]) -> None:
    if given and given[0] in CONTINUABLE:
        # --fresh would begin anew what has just been begun.
        again = [word for word in given if word != "--fresh"]
        same = "the same command" if len(again) == len(given) else "this"
        plain_line(f"Stopped; what was finished is kept. Continue with {same}:")
        plain_line(f"  vlforge {shlex.join(again)}")
    else:
        plain_line("Stopped.")
