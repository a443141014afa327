"""OpenAI's chat requests as samples and drawings; what cannot be honoured is refused by name."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlforge.inference.endpoint.writer import seed_of
from vlforge.serving.http.limits import Fault, Limits
from vlforge.serving.http.pictures import Gallery
from vlforge.types import LLAVA_IMAGE_TOKEN, Drawing, Sample, Turn

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_UNHEEDED = frozenset(
    "user metadata store service_tier safety_identifier prompt_cache_key parallel_tool_calls "
    "prompt_cache_retention".split()
)
"""Fields that change no answer."""
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "logprobs": (False,), "top_logprobs": (0,), "frequency_penalty": (0,), "presence_penalty": (0,),
    "repetition_penalty": (1,), "logit_bias": ({},), "tools": ([],), "functions": ([],),
    "tool_choice": ("none", "auto"), "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "top_k": (0, -1),
    "min_p": (0,), "best_of": (1,), "echo": (False,), "ignore_eos": (False,),
    "skip_special_tokens": (True,), "add_generation_prompt": (True,), "min_tokens": (0,),
    "continue_final_message": (False,),
}  # fmt: skip
"""Fields that are taken only where they ask for nothing."""
_OURS = frozenset(
    "model messages max_tokens max_completion_tokens temperature top_p n num_beams seed stop "
    "stream stream_options".split()
)


@dataclass(frozen=True)
class Asked:
    """A request as models take it; a key for each choice."""

    model: str
    sample: Sample
    drawing: Drawing
    keys: tuple[int, ...]
    streams: bool
    tells_usage: bool


def read_request(
    body: bytes,
    limits: Limits,
    fetch: Callable[[str], bytes] | None,
    claim: Callable[[int], None] = lambda size: None,
) -> Asked:
    """A request's JSON, checked; its pictures are fetched and measured, not decoded.

    Args:
        fetch: gets what lies at an http address; None: none is asked.
        claim: told of the bytes that are fetched.

    Raises:
        Fault: what is wrong, and where.
    """
    told = _decoded(body)
    model = told.get("model")
    if not isinstance(model, str) or not model:
        raise _bad("model", "name one of the models of /v1/models")
    _check_fields(told)
    drawing = _drawing(told, limits)
    choices = _number(told, "n", 1, int, 1, limits.choices)
    streams = _flag(told, "stream")
    options = told.get("stream_options") or {}
    if not isinstance(options, dict) or (options and not streams):
        raise _bad("stream_options", "an object, where stream is true")
    gallery = Gallery(limits, fetch, claim)
    turns = _turns(told.get("messages"), limits, gallery)
    sample = Sample("request", tuple(gallery.found), turns)
    keys = _keys(told, drawing, choices)
    return Asked(model, sample, drawing, keys, streams, bool(options.get("include_usage")))


def _decoded(body: bytes) -> dict[str, Any]:
    import msgspec

    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Fault(400, f"the body is no JSON: {error}", code="invalid_json") from None
    if not isinstance(told, dict):
        raise Fault(400, "the body is no JSON object", code="invalid_json")
    return {key: value for key, value in told.items() if value is not None}


def _check_fields(told: Mapping[str, Any]) -> None:
    for name, value in told.items():
        if name in _OURS or name in _UNHEEDED:
            continue
        if name not in _NEUTRAL:
            raise _bad(name, "an unknown field, not supported here; leave it out", "unknown_field")
        if value not in _NEUTRAL[name]:
            raise _bad(name, "not supported by this server; leave it out", "unsupported_parameter")


def _drawing(told: Mapping[str, Any], limits: Limits) -> Drawing:
    most = limits.most_tokens
    longest = min(limits.tokens, most)
    for name in ("max_tokens", "max_completion_tokens"):
        longest = _number(told, name, longest, int, 1, most)
    temperature = _number(told, "temperature", limits.temperature, float, 0, 2)
    beams = _number(told, "num_beams", 1, int, 1, 16)
    if beams > 1 and temperature > 0:
        raise _bad("num_beams", "beams search without sampling; leave temperature at 0")
    top_p = _number(told, "top_p", 1.0, float, 0, 1)
    if top_p == 0:
        raise _bad("top_p", "above 0")
    # Greedy answers are alike whatever top_p says, and so may be drawn together.
    top_p = top_p if temperature > 0 else 1.0
    return Drawing(longest, temperature, top_p, beams, stop=_stops(told.get("stop")))


def _stops(told: Any) -> tuple[str, ...]:
    stops = [told] if isinstance(told, str) else told or []
    is_list = isinstance(stops, list) and len(stops) <= 16
    if not is_list or not all(isinstance(one, str) and 0 < len(one) <= 200 for one in stops):
        raise _bad("stop", "a text, or up to 16 of them, none empty")
    return tuple(stops)


def _keys(told: Mapping[str, Any], drawing: Drawing, choices: int) -> tuple[int, ...]:
    """What sampling depends on: the seed for the first choice, others made of it."""
    seed = _number(told, "seed", -1, int, -(1 << 63), (1 << 63) - 1)
    if "seed" not in told:
        seed = secrets.randbits(62) if drawing.temperature > 0 else 0
    return (seed, *(seed_of(abs(seed), choice) for choice in range(1, choices)))


def _turns(told: Any, limits: Limits, gallery: Gallery) -> tuple[Turn, ...]:
    if not isinstance(told, list) or not told:
        raise _bad("messages", "a list of one message or more")
    if len(told) > limits.messages:
        raise _bad("messages", f"at most {limits.messages} messages")
    turns: list[Turn] = []
    left = limits.characters
    for number, message in enumerate(told):
        where = f"messages[{number}]"
        turn = _turn(message, where, gallery)
        left -= len(turn.text)
        if left < 0:
            raise Fault(
                400, f"messages of more than {limits.characters:,} characters; shorten them",
                param="messages", code="context_length_exceeded",
            )  # fmt: skip
        _append(turns, turn, where)
    if turns[-1].role != "user":
        raise _bad("messages", "the last message is to be the user's")
    return tuple(turns)


def _append(turns: list[Turn], turn: Turn, where: str) -> None:
    """The turn behind the others; two of one speaker in a row are one."""
    before = turns[-1].role if turns else ""
    if turn.role == before:
        turns[-1] = Turn(turn.role, f"{turns[-1].text}\n{turn.text}")
        return
    if turn.role == "system" and before:
        raise _bad(f"{where}.role", "a system message stands before all others")
    if turn.role == "assistant" and before in ("", "system"):
        raise _bad(f"{where}.role", "a conversation begins with the user")
    turns.append(turn)


def _turn(message: Any, where: str, gallery: Gallery) -> Turn:
    if not isinstance(message, dict):
        raise _bad(where, "an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise _bad(f"{where}.role", f"{role!r} is not supported; give system, user or assistant")
    if message.get("tool_calls") or message.get("function_call"):
        raise _bad(f"{where}.tool_calls", "tools are not supported")
    content, where = message.get("content"), f"{where}.content"
    if isinstance(content, str):
        return Turn(_ROLES[role], _plain(content, where))  # type: ignore[arg-type]
    if not isinstance(content, list) or not content:
        raise _bad(where, "a text, or a list of text and image_url parts")
    takes = gallery if role == "user" else None
    parts = [_part(one, f"{where}[{number}]", takes) for number, one in enumerate(content)]
    return Turn(_ROLES[role], joined(parts))  # type: ignore[arg-type]


def _part(part: Any, where: str, gallery: Gallery | None) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return _plain(part["text"], f"{where}.text")
    if kind != "image_url":
        raise _bad(where, "give text with its text, or image_url with a url")
    if gallery is None:
        raise _bad(where, "pictures stand in messages of the user")
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str):
        raise _bad(f"{where}.image_url.url", "an address as text")
    gallery.take(url, where)
    return LLAVA_IMAGE_TOKEN


def _plain(text: str, where: str) -> str:
    if LLAVA_IMAGE_TOKEN in text:
        raise _bad(where, f"{LLAVA_IMAGE_TOKEN} stands for pictures here; send image_url parts")
    return text


def joined(parts: Sequence[str]) -> str:
    """A message's parts as one text, each picture's mark on a line of its own.

    A text that ends or begins with white space says itself how it stands beside the other.
    """
    text = ""
    for part in parts:
        is_apart = not text or not part or text[-1].isspace() or part[0].isspace()
        text += part if is_apart else f"\n{part}"
    return text


def _number(
    told: Mapping[str, Any], name: str, otherwise: Any, kind: type, least: float, most: float
) -> Any:
    value = told.get(name, otherwise)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most or (kind is int and value != int(value)):
        word = "a whole number" if kind is int else "a number"
        raise _bad(name, f"{_shown(value)} is not {word} from {least:g} to {most:g}")
    return kind(value)


def _flag(told: Mapping[str, Any], name: str) -> bool:
    value = told.get(name, False)
    if not isinstance(value, bool):
        raise _bad(name, f"{_shown(value)} is neither true nor false")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _bad(where: str, text: str, code: str = "") -> Fault:
    return Fault(400, f"{where}: {text}", param=where, code=code or "invalid_value")
