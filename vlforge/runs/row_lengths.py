"""What a train stage makes of its rows: ids, labels, length with pictures; no weight is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vlforge.types import Sample, VLForgeError

Encode = Callable[[Sample, int | None], Any]
"""A row, cut to so many tokens: an `Encoded`, or a native model's."""


@dataclass(frozen=True)
class StageRows:
    """Encodes the rows of a stage as it will train on them.

    template: None is a native model's own. doubt: why pictures count as one token each,
    where the model cannot be asked.
    """

    encode: Encode
    tokenizer: Any
    template: Any
    doubt: str = ""


def stage_rows(config: Any) -> StageRows:
    """The rows of a stage, by what it says of model, template, tokenizer and `compat`.

    Raises:
        ModelError: not even a tokenizer is there.
        RecipeError: no such template, or none of that `compat`.
    """
    from vlforge.text.templates import find_template

    try:
        return _asked(config)
    except (VLForgeError, OSError) as error:
        tokenizer = _tokenizer(config)
        why = f"{error}; each picture counts as one token here"
        return text_rows(find_template(config.template), tokenizer, config.compat, why)


def text_rows(
    template: Any, tokenizer: Any, compat: str | None = None, doubt: str = ""
) -> StageRows:
    """Rows of no model in particular: a picture is one token."""
    from vlforge.models.encoding import encode_sample
    from vlforge.text.tokenizers import adapt

    adapted = adapt(tokenizer)

    def encode(sample: Sample, max_length: int | None) -> Any:
        how: dict[str, Any] = {"max_length": max_length, "compat": compat}
        return encode_sample(sample, template, adapted, image_tokens=1, **how)

    return StageRows(encode, tokenizer, template, doubt)


def _tokenizer(config: Any) -> Any:
    from vlforge.text.tokenizers import load_tokenizer

    model = config.model
    if isinstance(model, str):
        return load_tokenizer(model, dialect=config.tokenizer)
    own = model.tokenizer_dialect if config.tokenizer == "auto" else config.tokenizer
    return load_tokenizer(model.tokenizer or model.language, dialect=own)


def _asked(config: Any) -> StageRows:
    """Rows of the stage's own model."""
    from vlforge.inference.text_side import open_text_side
    from vlforge.text.encode import check_compat
    from vlforge.text.tokenizers import adapt

    side = open_text_side(config.model, config.template, config.tokenizer)
    if side.is_native:
        from vlforge.models.native_outline import Outliner

        outline = Outliner(side.model)  # type: ignore[arg-type]

        def encode_native(sample: Sample, max_length: int | None) -> Any:
            return outline(sample, side.sizes(sample), side.template, max_length)

        return StageRows(encode_native, side.tokenizer, side.template)
    if side.template is not None:
        check_compat(side.template, config.compat)
    if config.image_aspect_ratio != "model":
        settings: Any = side.model.config
        settings.image_aspect_ratio = config.image_aspect_ratio
    _teach(side.tokenizer, side.template.new_tokens if side.template else ())
    adapted = replace(side, tokenizer=adapt(side.tokenizer))

    def encode(sample: Sample, max_length: int | None) -> Any:
        return adapted.encode(sample, max_length, config.compat)

    return StageRows(encode, side.tokenizer, side.template)


def _teach(tokenizer: Any, tokens: tuple[str, ...]) -> None:
    """Have the tokens that a template brings along in the tokenizer, as the stage will."""
    from vlforge.text.tokenizers import adapt

    missing = [token for token in tokens if len(adapt(tokenizer).ids(token)) != 1]
    if missing and hasattr(tokenizer, "add_tokens"):
        tokenizer.add_tokens(missing, special_tokens=True)
