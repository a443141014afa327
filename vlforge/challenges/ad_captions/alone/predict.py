"""Captions of ad pictures: predict.py INPUT OUTPUT WEIGHTS.

INPUT has `id`, a tab and a picture in base64 in each line; OUTPUT gets `id`, a tab and a
caption for every one of them, also where a picture is damaged. The vlforge beside this
file is used and no other. Answers are those of `vlforge predict WEIGHTS INPUT OUTPUT`; on
a GPU in bf16, or fp16 where it has none.
"""

import os
import sys

FEWEST = 3, 11
HERE = os.path.dirname(os.path.abspath(__file__))


def main(arguments: "list[str]") -> int:
    """Answer every line; the exit code."""
    if sys.version_info < FEWEST:
        print("predict.py needs Python {}.{} or newer".format(*FEWEST), file=sys.stderr)
        return 2
    if len(arguments) != 3:
        print("usage: predict.py INPUT OUTPUT WEIGHTS", file=sys.stderr)
        return 2
    sys.path.insert(0, HERE)
    from vlforge.types import VLForgeError

    try:
        caption_file(*arguments)
    except VLForgeError as error:
        print("error:", error, file=sys.stderr)
        return 2
    return 0


def caption_file(source: str, target: str, weights: str) -> None:
    """Captions for every line of `source`, by the model in `weights`.

    Raises:
        VLForgeError: no such file, or no model there.
    """
    from pathlib import Path

    from vlforge.serving.predict.answering import Asking
    from vlforge.serving.predict.rows import Source
    from vlforge.serving.predict.run import Plan, predict
    from vlforge.types import Loading

    asking = Asking(str(find_weights(Path(weights))), loading=Loading(precision()))
    plan = Plan(Source(Path(source)), Path(target), asking, to="tsv", overwrite=True)
    done = predict(plan, tell)
    fell = sum(done.summary.fell_back.values())
    print(f"{done.summary.rows} lines, {done.summary.damaged} damaged, {fell} without an answer")


def find_weights(folder: "object") -> "object":
    """The folder with config.json: `folder`, or the only one in it.

    Raises:
        DataError: none there, or several.
    """
    from pathlib import Path

    from vlforge.types import DataError

    given = Path(str(folder))
    if not given.is_dir():
        raise DataError(f"{given}: no such folder of weights")
    if (given / "config.json").is_file():
        return given
    inner = sorted(path.parent for path in given.glob("*/config.json"))
    if len(inner) == 1:
        return inner[0]
    held = ", ".join(path.name for path in inner) or "none"
    raise DataError(
        f"{given}: WEIGHTS is a folder with config.json or holds one such; found {held}"
    )


def precision() -> "object":
    """bf16 on a GPU that has it, fp16 on another, fp32 on a processor."""
    import torch

    if not torch.cuda.is_available():
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def tell(done: int, total: "int | None", note: str) -> None:
    """A line now and then."""
    if total and done and (done == total or done * 20 // total > (done - 32) * 20 // total):
        print(f"{done} of {total} {note}".rstrip(), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
