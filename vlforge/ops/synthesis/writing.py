"""Asking a model about rows: what is asked, again where the reply does not fit, provenance."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from vlforge.data.images import ImageFile
from vlforge.ops.base import Grown, RowMapper
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.index import name_of
from vlforge.ops.synthesis.prompt_files import Prompt, read_prompt
from vlforge.ops.synthesis.provenance import origin, with_origin
from vlforge.ops.synthesis.replies import UnfitError
from vlforge.types import (
    LLAVA_IMAGE_TOKEN,
    Caption,
    Drawing,
    Drop,
    EndpointSpec,
    Need,
    RecipeError,
    Refusal,
    Row,
    Sample,
    Turn,
)

UNFIT = "reply does not follow the format"
"""Reason of rows whose replies did not fit in all tries."""
_CHAT_PATH = "/chat/completions"


@dataclass(frozen=True)
class Asked:
    """One conversation to be answered; its turns hold `<image>` once per picture of `files`.

    `about` is what the operator wants to know of it when the reply comes. `fault` is the
    reason of the row's drop record, should there be no further try.
    """

    turns: tuple[Turn, ...]
    files: tuple[ImageFile, ...] = ()
    about: Any = None
    fault: str = UNFIT

    @classmethod
    def of(cls, prompt: Prompt, files: Sequence[ImageFile] = ()) -> Asked:
        """A filled prompt, its pictures before the words where these do not place them."""
        user = prompt.user
        if files and user.count("<image>") != len(files):
            user = "<image>\n" * len(files) + user
        system = (Turn("system", prompt.system),) if prompt.system else ()
        return cls((*system, Turn("user", user)), tuple(files))


@dataclass(frozen=True, kw_only=True)
class Writing(RowMapper):
    """What operators share that ask a model about each row.

    Where a model is named, it is a folder, or one of the recipe's `endpoints`.
    `prompt_file` stands in for the built-in prompt (`vlforge list prompts`). A reply that
    is not in the form asked for is put to the model again with what is wrong, `try_num`
    times in all; then the row is dropped. `sampling_params`: temperature, top_p,
    max_tokens. Keys of endpoints come from the environment only.
    """

    prompt_file: str = ""
    system_prompt: str | None = None
    try_num: int = 3
    sampling_params: dict[str, Any] | None = field(default_factory=dict)
    model_params: dict[str, Any] | None = field(default_factory=dict)
    api_endpoint: str | None = None
    response_path: str | None = None

    needs: ClassVar = Need.MODEL
    prompt_name: ClassVar[str] = ""
    """The file under `prompts/` that holds the built-in words."""
    prompt_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for key in ("sampling_params", "model_params"):
            # Recipes of Data-Juicer say null for an empty table.
            object.__setattr__(self, key, getattr(self, key) or {})
        if self.try_num < 1:
            raise RecipeError(f"try_num is {self.try_num}; give at least 1")
        self.drawing()

    def model_name(self) -> str:
        """The model as the recipe names it."""
        raise NotImplementedError

    def is_api(self) -> bool:
        """Whether a name that is no endpoint of the recipe is a model of an API, not a folder."""
        return False

    def server(self) -> str | None:
        """The address of a server that the operator names itself."""
        return self.api_endpoint

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """What to ask about a row; None leaves the row as it is."""
        raise NotImplementedError

    def read(self, item: Item, place: int, reply: Caption) -> Any:
        """What a reply says, by its place among those asked for; `UnfitError`: ask again."""
        return reply.text.strip()

    def read_in(self, item: Item, place: int, reply: Caption, context: Context) -> Any:
        """As `read`, for operators that have to know the recipe's special tokens."""
        return self.read(item, place, reply)

    def heard(self, item: Item, place: int, one: Any, reply: Caption, context: Context) -> Any:
        """As `read`, for operators that judge a reply by the `Asked` that it answers."""
        return self.read_in(item, place, reply, context)

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row | Grown | Drop:
        """The new row or rows from what `read` gave."""
        raise NotImplementedError

    def unread(self, item: Item, drop: Drop) -> Row | Grown | Drop:
        """What becomes of a row without a usable answer."""
        return drop

    def marked(self, row: Row, entry: Mapping[str, Any]) -> Row:
        """A new row that tells where it comes from."""
        return with_origin(row, dict(entry))

    def prompt(self) -> Prompt:
        """The words, fields open; a `system_prompt` of the recipe goes before the file's."""
        found = read_prompt(self.prompt_name, self.prompt_file, self.prompt_fields)
        return found if self.system_prompt is None else found._replace(system=self.system_prompt)

    def words(self) -> Prompt:
        """The prompt as it is asked, fields open; for operators with a key called `prompt`."""
        return self.prompt()

    def drawing(self) -> Drawing:
        """How replies are drawn."""
        return drawing_of(self.sampling_params)

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        """Ask about all rows together; a row that nothing is asked of stays as it is."""
        asked: list[Asks] = [
            self.asks(item, files, batch.context)
            for item, files in zip(batch.items, batch.image_files(self), strict=True)
        ]
        values = converse(
            batch,
            type(self),
            reference(self.model_name(), self.server(), self.model_params, self.is_api()),
            asked,
            self.drawing(),
            self.try_num,
            lambda at, place, reply: self.heard(
                batch.items[at], place, _one(asked[at], place), reply, batch.context
            ),
        )
        return [
            self._stamped(item, found, batch.context)
            for item, found in zip(batch.items, values, strict=True)
        ]

    def _stamped(
        self, item: Item, found: list[Any] | Drop | None, context: Context
    ) -> Grown | Row | Drop:
        if found is None or isinstance(found, Drop):
            return item.row if found is None else self.unread(item, found)
        made = self.made(item, found, context)
        if isinstance(made, Drop) or self.compat == "data_juicer":
            return made
        entry = origin(
            name_of(type(self).__name__),
            item.uid,
            model=self.model_name(),
            prompt=self.words().hash,
            seed=context.seed,
        )
        if isinstance(made, Grown):
            return replace(made, rows=tuple(self.marked(row, entry) for row in made.rows))
        return made if made is item.row else self.marked(made, entry)


Asks = Sequence[Asked] | Drop | None
"""Conversations about a row, why nothing can be asked about it, or nothing to ask."""


def _one(asked: Asks, place: int) -> Asked | None:
    return asked[place] if isinstance(asked, Sequence) else None


def converse(
    batch: Batch,
    op: type,
    model: str | EndpointSpec,
    asked: Sequence[Asks],
    drawing: Drawing,
    tries: int,
    read: Callable[[int, int, Caption], Any],
) -> list[list[Any] | Drop | None]:
    """Put questions about rows to a model, those of all rows together.

    Args:
        asked: per row what to ask; rows with a `Drop` or None keep it.
        tries: how often one conversation is put to the model before its row is dropped.
        read: (row, place among the row's questions, reply) -> value; `UnfitError`: again.

    Returns:
        Per row the values in the order asked, a `Drop`, or None.
    """
    found: list[list[Any] | Drop | None] = [
        [None] * len(row) if isinstance(row, Sequence) else row for row in asked
    ]
    left = {
        (at, place): one
        for at, row in enumerate(asked)
        if isinstance(row, Sequence)
        for place, one in enumerate(row)
    }
    for attempt in range(tries):
        if not left:
            break
        left = _round(batch, op, model, left, drawing, attempt, read, found)
    for at, place in left:
        one = left[at, place]
        found[at] = Drop("", one.fault, None, _last_complaint(one))
    return found


def _round(
    batch: Batch,
    op: type,
    model: str | EndpointSpec,
    left: Mapping[tuple[int, int], Asked],
    drawing: Drawing,
    attempt: int,
    read: Callable[[int, int, Caption], Any],
    found: list[list[Any] | Drop | None],
) -> dict[tuple[int, int], Asked]:
    """One try of all that is left; gives what has to be asked again."""
    name = name_of(op.__name__)
    writer = batch.context.writer(model, name)
    keys, samples = [], []
    for (at, place), one in left.items():
        uid = batch.items[at].uid
        keys.append(request_key(batch.context.seed, name, uid, place, attempt))
        images = tuple(file.content() if file.is_given else file.path for file in one.files)
        samples.append(Sample(f"{uid}#{place}", images, one.turns))
    again: dict[tuple[int, int], Asked] = {}
    replies = writer.write(samples, drawing, keys)
    for ((at, place), one), reply in zip(left.items(), replies, strict=True):
        row = found[at]
        if isinstance(reply, Refusal):
            found[at] = Drop("", reply.reason, None, reply.detail or None)
        elif isinstance(row, list):
            try:
                row[place] = read(at, place, reply[0])
            except UnfitError as error:
                again[at, place] = _continued(one, reply[0].text, error)
    return {key: one for key, one in again.items() if isinstance(found[key[0]], list)}


def _continued(one: Asked, reply: str, error: UnfitError) -> Asked:
    """The conversation with the reply and what is wrong with it; older complaints are dropped."""
    asked = one.turns
    while asked and asked[-1].role == "user" and len(asked) > 2 and asked[-2].role == "assistant":
        asked = asked[:-2]
    complaint = f"{error}. Reply again, only in the form that was asked for."
    said = Turn("assistant", reply.replace(LLAVA_IMAGE_TOKEN, ""))
    turns = (*asked, said, Turn("user", complaint))
    return replace(one, turns=turns, fault=error.reason or UNFIT)


def _last_complaint(one: Asked) -> str:
    reply, complaint = one.turns[-2].text, one.turns[-1].text.partition(". Reply again")[0]
    return f"{complaint}: {' '.join(reply.split())[:160]!r}"


def request_key(seed: int, op: str, uid: str, place: int, attempt: int = 0) -> int:
    """63 bits that the sampling of one request depends on."""
    told = f"{seed}:{op}:{uid}:{place}:{attempt}".encode()
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest()) >> 1


def drawing_of(params: Mapping[str, Any] | None) -> Drawing:
    """How replies are drawn, from a recipe's `sampling_params`.

    Raises:
        RecipeError: a parameter that means nothing here; names those that do.
    """
    names = {
        "temperature": "temperature",
        "top_p": "top_p",
        "max_tokens": "max_new_tokens",
        "max_new_tokens": "max_new_tokens",
        "num_beams": "beams",
        "stop": "stop",
    }
    params = params or {}
    unknown = sorted(set(params) - set(names))
    if unknown:
        raise RecipeError(f"sampling_params: {unknown[0]!r} is unknown; known: {', '.join(names)}")
    found = {names[name]: value for name, value in params.items()}
    if "stop" in found:
        stop = found["stop"]
        found["stop"] = (stop,) if isinstance(stop, str) else tuple(stop or ())
    return Drawing(**{"max_new_tokens": 512, **found})


def reference(
    model: str, api_endpoint: str | None, params: Mapping[str, Any] | None, is_api: bool
) -> str | EndpointSpec:
    """What a `ModelSource` is asked for: a name, or a server told by the operator itself.

    Args:
        api_endpoint: an address, or as in Data-Juicer a path behind the address.
        params: `base_url` where Data-Juicer's recipes name the server.

    Raises:
        RecipeError: a key is written in the recipe.
    """
    params = params or {}
    if "api_key" in params:
        raise RecipeError("model_params: api_key does not belong in a recipe; set OPENAI_API_KEY")
    url = api_endpoint if api_endpoint and "://" in api_endpoint else params.get("base_url")
    if not url and not is_api:
        return model
    url = str(url or os.environ.get("OPENAI_BASE_URL") or EndpointSpec.url)
    return EndpointSpec(model, url.rstrip("/").removesuffix(_CHAT_PATH))
