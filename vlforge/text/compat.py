"""Ids and labels exactly as LLaVA, MGM and XTuner make them, faults included.

LLaVA and MGM tokenise the whole conversation, then tokenise each round again to
count how many tokens to mask; a count that does not add up masks the whole row.
XTuner and MiniGPT-4 tokenise prompts and answers apart.

Sources: haotian-liu/LLaVA@c121f04 and dvlab-research/MGM@769820c
(train.preprocess*), InternLM/xtuner@v0.1.23 (llava_map_fn, encode_fn),
Vision-CAIR/MiniGPT-4@22d8888 (mini_gpt4.forward).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vlforge.text.encoded import EncodedText
from vlforge.text.template import MaskRule, Template, Voice
from vlforge.text.tokenizers import TextTokenizer
from vlforge.types import IGNORE_INDEX, IMAGE_INDEX, LLAVA_IMAGE_TOKEN, DataError, Turn


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    """One row on its way through a reference's text pipeline."""

    template: Template
    tokens: TextTokenizer
    turns: tuple[Turn, ...]
    max_length: int | None
    has_image: bool
    image_marks: tuple[str, str]
    rule: MaskRule

    def full(self, text: str) -> list[int]:
        """Ids as the tokenizer gives them for a text of its own."""
        bos = self.tokens.bos_token_id
        head = [bos] if self.tokens.adds_bos and bos is not None else []
        return head + self.tokens.ids(text)

    def with_images(self, text: str) -> list[int]:
        """Ids of a text with -200 for each `<image>`."""
        chunks = [self.full(chunk) for chunk in text.split(LLAVA_IMAGE_TOKEN)]
        opens = bool(chunks[0]) and chunks[0][0] == self.tokens.bos_token_id
        ids = list(chunks[0])
        for chunk in chunks[1:]:
            ids.append(IMAGE_INDEX)
            ids.extend(chunk[1:] if opens else chunk)
        return ids

    @property
    def pad_id(self) -> int | None:
        """What fills up a batch: the unknown token, but for Gemma's, which has its own."""
        unknown = self.tokens.unk_token_id
        return self.tokens.pad_token_id if self.rule == "gemma" or unknown is None else unknown

    def count(self, text: str) -> int:
        """Tokens of a text, an image counting as one."""
        return len(self.with_images(text) if self.has_image else self.full(text))


def encode(row: ReferenceRow) -> EncodedText:
    """The row as the reference's rule has it.

    Raises:
        DataError: a row on which the reference fails.
    """
    if row.rule in ("xtuner", "xtuner-images"):
        return _xtuner(row)
    if row.rule == "minigpt4":
        return _minigpt4(row)
    if row.has_image:
        turns = tuple(Turn(turn.role, _image_to_head(row, turn.text)) for turn in row.turns)
    else:
        turns = row.turns
    if row.rule == "plain":
        return _plain(row, turns)
    return _headed(row, turns) if row.rule == "headed" else _counted(row, turns)


def _image_to_head(row: ReferenceRow, text: str) -> str:
    """All images of a turn become one, at its head."""
    if LLAVA_IMAGE_TOKEN not in text:
        return text
    text = (LLAVA_IMAGE_TOKEN + "\n" + text.replace(LLAVA_IMAGE_TOKEN, "").strip()).strip()
    for before, after in (row.template.image_marks, row.image_marks):
        text = text.replace(LLAVA_IMAGE_TOKEN, before + LLAVA_IMAGE_TOKEN + after)
    return text


def _plain(row: ReferenceRow, turns: tuple[Turn, ...]) -> EncodedText:
    if len(turns) != 2 or LLAVA_IMAGE_TOKEN not in turns[0].text:
        raise DataError(f"template 'plain' takes an image and its caption, not {len(turns)} turns")
    ids = row.with_images(LLAVA_IMAGE_TOKEN + turns[1].text + row.template.assistant.end)
    masked = len(row.with_images(LLAVA_IMAGE_TOKEN))
    labels = [IGNORE_INDEX] * masked + ids[masked:]
    return EncodedText(ids, labels, len(ids))


def _in_order(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """The turns without a leading answer, which the references drop silently."""
    if not turns:
        raise DataError("the conversation has no turn")
    if turns[0].role == "assistant":
        turns = turns[1:]
    for place, turn in enumerate(turns):
        if turn.role != ("user" if place % 2 == 0 else "assistant"):
            raise DataError(f"turn {place + 1} is the {turn.role}'s: out of order")
    return turns


def reference_text(template: Template, turns: tuple[Turn, ...], *, is_open: bool = False) -> str:
    """The conversation as one string, images where the turns have them.

    An empty turn leaves its opening alone, as does the assistant's turn to come
    where `is_open`. Llama 2's format leaves an empty turn out.
    """
    leaves_out = "llama-2" in template.references.values()
    if leaves_out and turns and not turns[0].text:
        raise DataError("the first turn is empty, which Llama 2's format has no form for")

    def spoken(voice: Voice, text: str) -> str:
        return voice.open + voice.lead + text + voice.end if text else voice.open

    voices = {"user": template.user, "assistant": template.assistant}
    system = template.system
    if system:
        system = template.system_voice.open + system + template.system_voice.end
    head, inside = ("", system) if template.system_inside else (system, "")
    parts = [head + template.opening]
    for place, turn in enumerate(turns):
        if leaves_out and not turn.text:
            continue
        if place and turn.role == "user":
            parts.append(template.between)
        parts.append(spoken(voices[turn.role], inside + turn.text if turn.text else ""))
        inside = ""
    return "".join(parts) + (template.assistant.open if is_open else "")


@dataclass(frozen=True, slots=True)
class _Count:
    """How a reference counts its way through the rounds of a conversation.

    cut: text that ends a round; `paired`: it ends every turn instead, and a round is
        the system text with the first two turns, then two turns each.
    marker: text between question and answer.
    start: tokens before the first round, masked.
    prompt_less: what the reference takes off the prompt's count, which it makes of the
        prompt with the marker, or of the prompt alone where not `marker_counts`.
    round_more: what it adds to the round's.
    later_less: taken off both from the second round on, unless the tokenizer is legacy.
    legacy_more: added to both in every round where the tokenizer is legacy.
    """

    cut: str
    marker: str
    start: int = 1
    prompt_less: int = 1
    round_more: int = 0
    paired: bool = False
    marker_counts: bool = True
    later_less: int = 0
    legacy_more: int = 0


def _count_of(row: ReferenceRow) -> _Count:
    template = row.template
    turn_end = template.user.end
    between = turn_end + template.assistant.open
    chatml = _Count(turn_end, between, paired=True, start=0, legacy_more=1)
    sep_length = row.count(turn_end) if row.rule == "chatml-older" else 0
    return {
        # A lone trailing space and the first token: two too many. In mid-text a round
        # starts one token shorter than on its own.
        "vicuna": _Count(
            template.eos, between + template.assistant.lead, prompt_less=2, later_less=1
        ),
        "llama-2": _Count(template.eos, "[/INST] ", prompt_less=2),
        "llama-3": _Count(turn_end, between, paired=True),
        "gemma": _Count(template.eos, template.assistant.open),
        "chatml": chatml,
        "chatml-begun": replace(chatml, start=1),
        "chatml-older": replace(chatml, prompt_less=0, round_more=sep_length, legacy_more=0),
    }[row.rule]


def _rounds(text: str, count: _Count) -> list[str]:
    parts = text.split(count.cut)
    if not count.paired:
        return parts
    later = [count.cut.join(parts[at : at + 2]) for at in range(3, len(parts), 2)]
    return [count.cut.join(parts[:3]), *later]


def _counted(row: ReferenceRow, turns: tuple[Turn, ...]) -> EncodedText:
    text = reference_text(row.template, _in_order(turns))
    if row.rule == "chatml-older":
        row = replace(row, has_image=True)
    if row.has_image:
        ids, length = row.with_images(text), None
    else:
        ids = row.full(text)
        length = len(ids)
        ids = ids[: row.max_length]
    labels = list(ids)
    count = _count_of(row)
    at = count.start
    _mask(labels, 0, at)
    for number, part in enumerate(_rounds(text, count)):
        halves = part.split(count.marker)
        if not part or len(halves) != 2:
            break
        question = halves[0] + count.marker if count.marker_counts else halves[0]
        prompt = row.count(question) - count.prompt_less
        whole = row.count(part) + count.round_more
        if row.tokens.legacy:
            prompt, whole = prompt + count.legacy_more, whole + count.legacy_more
        elif number:
            prompt, whole = prompt - count.later_less, whole - count.later_less
        _mask(labels, at, at + prompt)
        at += whole
    _mask(labels, at, len(labels))
    return _settle(row, ids, labels, at, len(ids) if length is None else length)


def _mask(labels: list[int], start: int, end: int) -> None:
    labels[start:end] = [IGNORE_INDEX] * len(labels[start:end])


def _headed(row: ReferenceRow, turns: tuple[Turn, ...]) -> EncodedText:
    """The oldest format, which the references fall back to: `### Role: text` lines.

    The first two tokens of each question stay supervised.
    """
    names = {
        "user": row.template.user.open.rstrip(":"),
        "assistant": row.template.assistant.open.rstrip(":"),
        "system": "unknown",
    }
    head = row.template.system + "\n\n"
    lines = [f"### {names[turn.role]}: {turn.text}\n" for turn in turns]
    text = head + "".join(lines) + "### "
    ids = row.with_images(text) if row.has_image else row.full(text)
    length = len(ids)
    if not row.has_image:
        ids = ids[: row.max_length]
    labels = list(ids)
    at = _headed_count(row, head)
    _mask(labels, 0, at)
    for turn, line in zip(turns, lines, strict=True):
        size = _headed_count(row, line)
        if turn.role == "user":
            _mask(labels, at + 2, at + size)
        at += size
    return EncodedText(ids, labels, length)


def _headed_count(row: ReferenceRow, text: str) -> int:
    """Tokens of a line; without images each line is cut on its own, and fillers do not count."""
    if row.has_image:
        return row.count(text)
    return sum(token != row.pad_id for token in row.full(text)[: row.max_length])


def _settle(
    row: ReferenceRow, ids: list[int], labels: list[int], at: int, length: int
) -> EncodedText:
    """Mask the whole row where the counted rounds do not end at the last token."""
    total = sum(token != row.pad_id for token in ids)
    fits = row.max_length is not None and at >= row.max_length
    if fits or at == total:
        return EncodedText(ids, labels, length)
    note = f"tokenization mismatch: {at} vs. {total}"
    return EncodedText(ids, [IGNORE_INDEX] * len(labels), length, note)


def xtuner_rounds(turns: tuple[Turn, ...], *, images_only: bool = False) -> list[tuple[str, str]]:
    """Question and answer per round: leading answers and a last question are dropped,
    questions in a row are glued together.

    images_only: of every question only its image is kept (llava_image_only_map_fn).

    Raises:
        DataError: a turn that is neither the user's nor the assistant's, or a question
            without image where only images are kept.
    """
    rounds: list[tuple[str, str]] = []
    question = ""
    started = False
    for turn in turns:
        if turn.role == "user":
            started = True
            text = turn.text
            if LLAVA_IMAGE_TOKEN in text:
                words = text.replace(LLAVA_IMAGE_TOKEN, "").strip()
                text = (LLAVA_IMAGE_TOKEN + "\n" + words).strip()
            elif images_only:
                raise DataError("a question has no image where only images are kept")
            question += LLAVA_IMAGE_TOKEN if images_only else text
        elif turn.role == "assistant":
            if started:
                rounds.append((question, turn.text))
            question = ""
        else:
            raise DataError(f"a {turn.role} turn has no place in XTuner's LLaVA rows")
    return rounds


def _xtuner(row: ReferenceRow) -> EncodedText:
    template, tokens = row.template, row.tokens
    rounds = xtuner_rounds(row.turns, images_only=row.rule == "xtuner-images")
    if not rounds:
        raise DataError("the conversation holds no answer to a question")
    ids: list[int] = []
    labels: list[int] = []
    bos, eos = tokens.bos_token_id, tokens.eos_token_id
    for number, (question, answer) in enumerate(rounds):
        voice = template.asking(number + 1)
        prompt: list[int] = []
        if bos is not None and (number == 0 or template.eos_after_answer):
            prompt.append(bos)
        asked = voice.open + voice.lead + question + voice.end + template.assistant.open
        if (images := asked.count(LLAVA_IMAGE_TOKEN)) > 1:
            raise DataError(f"a question shows {images} images, on which XTuner fails")
        for place, chunk in enumerate(asked.split(LLAVA_IMAGE_TOKEN)):
            if place:
                prompt.append(IMAGE_INDEX)
            prompt.extend(tokens.ids(chunk))
        spoken = tokens.ids(template.assistant.lead + answer + template.assistant.end)
        if template.eos_after_answer and eos is not None:
            spoken = [*spoken, eos]
        gap = tokens.ids(template.after)
        ids += prompt + spoken + gap
        labels += [IGNORE_INDEX] * len(prompt) + spoken + [IGNORE_INDEX] * len(gap)
    return EncodedText.cut(ids, labels, row.max_length)


def _minigpt4(row: ReferenceRow) -> EncodedText:
    """A picture and its caption; `max_length` cuts the caption, its end sign first.

    Padding is the end-of-sequence token there, so that a real one is never learned.
    """
    template, tokens = row.template, row.tokens
    if [turn.role for turn in row.turns] != ["user", "assistant"]:
        raise DataError("MiniGPT-4 takes a picture and its caption, nothing more")
    asked, caption = (turn.text for turn in row.turns)
    prompt = LLAVA_IMAGE_TOKEN
    if template.words_from_user:
        voice = template.user
        prompt = template.opening + voice.open + voice.lead + asked + voice.end
    before, *after = prompt.split(LLAVA_IMAGE_TOKEN)
    if len(after) != 1:
        raise DataError(f"MiniGPT-4 takes one picture, not {len(after)}")
    target = tokens.ids(caption + template.assistant.end)
    bos = [] if tokens.bos_token_id is None else [tokens.bos_token_id]
    ids = [*bos, *tokens.ids(before), IMAGE_INDEX, *tokens.ids(after[0])]
    labels = [IGNORE_INDEX] * len(ids)
    length = len(ids) + len(target)
    target = target[: row.max_length]
    labels += [IGNORE_INDEX if token == tokens.eos_token_id else token for token in target]
    return EncodedText(ids + target, labels, length)
