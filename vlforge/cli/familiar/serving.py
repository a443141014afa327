"""Mini-Gemini's and LLaVA's chat in the terminal and its servers."""

from __future__ import annotations

from vlforge.cli.familiar.asking import FLAGS, loading, template_of, whole
from vlforge.cli.familiar.old import OldCommand, Ours
from vlforge.types import RecipeError


def chat(old: OldCommand, package: str) -> Ours:
    """`serve.cli`: a conversation in the terminal.

    Raises:
        RecipeError: no model, or what chat does not do.
    """
    _, given = old.options(FLAGS)
    for option, why in (("gen", "pictures are not painted in a chat"),
                        ("ocr", "no text recognition runs beside the model")):  # fmt: skip
        if option in given:
            raise RecipeError(f"--{option}: {why}; leave it out")
    model, before = whole(given)
    words = ["chat", model]
    for image in filter(None, given.get("image-file", "").split(",")):
        words += ["--image", image]
    if given.get("conv-mode"):
        words += ["--template", template_of(given["conv-mode"], package)]
    words += ["--temperature", given.get("temperature", "0.2")]
    words += ["--max-new-tokens", given.get("max-new-tokens", "512"), *loading(given)]
    return Ours((*before, tuple(words)))


def query(old: OldCommand, package: str) -> Ours:
    """`eval.run_llava`: one question.

    Raises:
        RecipeError: no model.
    """
    _, given = old.options(FLAGS)
    model, before = whole(given)
    words = ["chat", model]
    for image in filter(None, given.get("image-file", "").split(given.get("sep", ","))):
        words += ["--image", image]
    words += ["--question", given.get("query", "")]
    if given.get("conv-mode"):
        words += ["--template", template_of(given["conv-mode"], package)]
    words += ["--temperature", given.get("temperature", "0.2")]
    for option, ours in (("top_p", "--top-p"), ("num_beams", "--num-beams")):
        if option in given:
            words += [ours, given[option]]
    words += ["--max-new-tokens", given.get("max_new_tokens", "512"), *loading(given)]
    return Ours((*before, tuple(words)))


def worker(old: OldCommand) -> Ours:
    """`serve.model_worker`: the model behind a page.

    Raises:
        RecipeError: no model.
    """
    _, given = old.options(FLAGS)
    model, before = whole(given)
    words = ["web", model]
    host = given.get("host", "localhost")
    if host not in ("localhost", "127.0.0.1"):
        words += ["--host", host]
    return Ours((*before, (*words, *loading(given))), (_ONE,))


def nothing(_: OldCommand) -> Ours:
    """`serve.controller` and `serve.gradio_web_server`: parts of what one process does here."""
    return Ours((), (_ONE,))


_ONE = "page and model are one process here, `vlforge web MODEL`; controllers are not needed"
