"""MiniGPT-4's templates, its prompt file, and what it does to an answer.

It trains with a prompt of its own around each caption, no system text and one
round; it is talked to in Vicuna's chat form with a system text. Both end a turn
with `###`, as Vicuna v0 does; Vicuna v1.1 and later end it with `</s>`.

Source: Vision-CAIR/MiniGPT-4@22d8888 (mini_gpt4.py, conversation.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlforge.text.template import Template, Voice
from vlforge.types import LLAVA_IMAGE_TOKEN, DataError

IMAGE_HERE = "<ImageHere>"
"""What stands for a picture in its prompt files."""
PROMPT = "###Human: {} ###Assistant: "
"""`prompt_template` of the published second stage."""
MARKS = ("<Img>", "</Img>")
_SYSTEM = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I "
    "provide it to you. Please answer my questions."
)


def prompted(name: str, prompt_template: str, end_sym: str, asked_as: str = "") -> Template:
    """The training template that MiniGPT-4's two settings describe.

    Prompt and caption are tokenised apart, the prompt in one piece on each side
    of the picture. In further rounds, which MiniGPT-4 has not, `end_sym` is not
    written twice.

    Raises:
        DataError: `prompt_template` has no single `{}` for the prompt.
    """
    if prompt_template.count("{}") != 1:
        raise DataError(f"prompt_template {prompt_template!r} needs one {{}} for the prompt")
    before, after = prompt_template.split("{}")
    opening = end_sym if before.startswith(end_sym) else ""
    ends_itself = end_sym == "</s>"
    return Template(
        name=name,
        user=Voice(before.removeprefix(opening), "", after),
        assistant=Voice(end=end_sym),
        opening=opening,
        joined=False,
        eos=end_sym if ends_itself else "",
        image_marks=MARKS,
        image_gaps=("", " "),
        stop_strings=() if ends_itself else (end_sym,),
        asked_as=asked_as,
        references={"minigpt4": "minigpt4"},
    )


PRETRAIN = Template(
    name="minigpt4_pretrain",
    user=Voice(),
    assistant=Voice(end="\n"),
    joined=False,
    words_from_user=False,
    stop_strings=("\n",),
    references={"minigpt4": "minigpt4"},
)
"""The first stage: the picture, then the caption and a line feed."""

TRAIN = prompted("minigpt4", PROMPT, "###", asked_as="minigpt4_chat")
"""The second stage."""

TRAIN_V1 = prompted("minigpt4_v1", "USER: {} ASSISTANT: ", "</s>", asked_as="minigpt4_v1_chat")
"""The second stage in the words of Vicuna v1.1 and later."""

CHAT = Template(
    name="minigpt4_chat",
    user=Voice("Human:", " ", "###"),
    assistant=Voice("Assistant:", " ", "###"),
    system=_SYSTEM,
    opening="###",
    image_marks=MARKS,
    image_gaps=("###Human: ", " "),
    stop_strings=("###",),
)
"""The demo's conversation: a picture sent before the one that is asked about is a turn of
its own."""

CHAT_V1 = Template(
    name="minigpt4_v1_chat",
    user=Voice("USER:", " ", " "),
    assistant=Voice("ASSISTANT:", " ", "</s>"),
    system=_SYSTEM,
    opening=" ",
    eos="</s>",
    image_marks=MARKS,
    image_gaps=(" USER: ", " "),
)
"""The same in the words of Vicuna v1.1 and later."""

MINIGPT4_TEMPLATES = (PRETRAIN, TRAIN, TRAIN_V1, CHAT, CHAT_V1)


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file such as `prompts/alignment.txt`, as user turns.

    Lines without `<ImageHere>` are no prompts and are left out, as MiniGPT-4 does;
    the others keep all their words, `<image>` where the picture stands.

    Raises:
        DataError: the file cannot be read, has no prompt, or a prompt with several pictures.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    prompts = []
    for number, line in enumerate(lines, 1):
        if line.count(IMAGE_HERE) > 1:
            raise DataError(f"{path}:{number} has {line.count(IMAGE_HERE)} {IMAGE_HERE}; give one")
        if IMAGE_HERE in line:
            prompts.append(line.replace(IMAGE_HERE, LLAVA_IMAGE_TOKEN))
    if not prompts:
        raise DataError(f"{path} has no line with {IMAGE_HERE}; it is no prompt file")
    return prompts


def clean_answer(text: str) -> str:
    """What the demo keeps of the words that were generated."""
    return text.split("###")[0].split("Assistant:")[-1].strip()


def vicuna_version(config: Mapping[str, Any], name: str = "") -> tuple[str, str] | None:
    """("v0" or "v1", what tells it) of a Vicuna; None where nothing tells.

    Args:
        config: `config.json` of the language model.
        name: of its folder, which often holds the version.
    """
    for said in (name, str(config.get("_name_or_path", ""))):
        found = re.search(r"vicuna.*?[-_]?v(\d)(?:[._](\d))?(?!\d)", said, re.I)
        if found:
            return ("v0" if found.group(1) == "0" else "v1"), f"its name says {found.group()}"
    rows = config.get("vocab_size")
    if rows == 32001:
        return "v0", "it has 32001 tokens, as v0 with its [PAD] does"
    if rows == 32000 and config.get("model_type", "llama") == "llama":
        return "v1", "it has 32000 tokens, and v0 has 32001"
    return None


def separator_doubt(template: Template, config: Mapping[str, Any], name: str = "") -> str | None:
    """Why a language model may not know where turns end in a template; None where it should.

    Arguments as for `vicuna_version`. A doubt is for the user to weigh: nothing is refused.
    """
    told = vicuna_version(config, name)
    ends = template.assistant.end
    if told is None or ends not in ("###", "</s>"):
        return None
    version, reason = told
    knows = "###" if version == "v0" else "</s>"
    if ends == knows:
        return None
    older = "is Vicuna v0" if version == "v0" else "is no Vicuna v0 (v1.1 or later)"
    other = "minigpt4" if version == "v0" else "minigpt4_v1"
    return (
        f"the language model seems to be one that {older}: {reason}; it ends turns with {knows!r} "
        f"and template {template.name!r} with {ends!r}, so that answers may run on or make no "
        f"sense. Take the Vicuna that the weights were trained with, or train with template {other}"
    )
