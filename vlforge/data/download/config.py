"""What a download is told; names and meanings follow img2dataset where it has the option."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from vlforge.types import RecipeError

Interpolation = Literal[
    "nearest", "linear", "bilinear", "cubic", "bicubic", "area", "lanczos", "lanczos4"
]
RESERVED = frozenset(
    "key caption url width height original_width original_height status error_message exif "
    "md5 sha256 sha512".split()
)
"""Columns that the output fills itself."""
HASHES = ("md5", "sha256", "sha512")
_SHAPING = (
    "image_size", "resize_mode", "resize_only_if_bigger", "upscale_interpolation",
    "downscale_interpolation", "encode_quality", "encode_format", "skip_reencode",
    "disable_all_reencoding", "min_image_size", "max_image_area", "max_aspect_ratio",
    "output_format", "url_col", "caption_col", "save_additional_columns", "verify_hash",
    "number_sample_per_shard", "oom_shard_count", "compute_hash", "extract_exif",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """A list of addresses, where the pictures go, and how they are fetched and kept.

    Columns: `url_col` and `caption_col` name them; `auto` takes url (image_url,
    img_url) and caption (text), in any case; `caption_col: none` keeps no caption.
    `save_additional_columns` is `all`, `none` or names; `verify_hash` a column and
    its hash, as `md5sum,md5`.

    Times are in seconds, sizes in pixels or bytes. `timeout` holds for each
    connection and each wait for data unless the two next ones are above 0.
    `per_host` is how many requests each worker process has at one host at a time;
    0 for no limit. `allow_private` lets addresses of this machine and of private
    networks through, also behind names and redirections.
    """

    url_list: str = ""
    output_folder: str = ""
    input_format: str = "auto"
    url_col: str = "auto"
    caption_col: str = "auto"
    save_additional_columns: tuple[str, ...] = ("all",)
    verify_hash: tuple[str, ...] = ()

    output_format: Literal["webdataset", "files"] = "webdataset"
    number_sample_per_shard: int = 10000
    oom_shard_count: int = 5
    compute_hash: Literal["md5", "sha256", "sha512", "none"] = "sha256"
    extract_exif: bool = True
    incremental_mode: Literal["incremental", "overwrite", "extend"] = "incremental"

    image_size: int = 256
    resize_mode: Literal["border", "keep_ratio", "keep_ratio_largest", "center_crop", "no"] = (
        "border"
    )
    resize_only_if_bigger: bool = False
    upscale_interpolation: Interpolation = "lanczos"
    downscale_interpolation: Interpolation = "area"
    encode_format: Literal["jpg", "png", "webp"] = "jpg"
    encode_quality: int | Literal["auto"] = "auto"
    skip_reencode: bool = False
    disable_all_reencoding: bool = False
    min_image_size: int = 0
    max_image_area: float = float("inf")
    max_aspect_ratio: float = float("inf")

    processes_count: int | Literal["auto"] = "auto"
    thread_count: int = 128
    per_host: int = 32
    max_shard_retry: int = 1
    timeout: float = 10
    connect_timeout: float = 0
    read_timeout: float = 0
    total_timeout: float = 60
    retries: int = 2
    backoff: float = 0.5
    max_bytes: int = 100_000_000
    max_redirects: int = 10
    allow_private: bool = False
    ignore_ssl_certificate: bool = False
    user_agent: str = "auto"
    user_agent_token: str = ""
    disallowed_header_directives: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex")

    def __post_init__(self) -> None:
        at_least = {
            "image_size": 1, "number_sample_per_shard": 1, "oom_shard_count": 1, "thread_count": 1,
            "max_bytes": 1, "retries": 0, "max_redirects": 0, "per_host": 0, "max_shard_retry": 0,
            "backoff": 0, "connect_timeout": 0, "read_timeout": 0,
        }  # fmt: skip
        for key, least in at_least.items():
            if not getattr(self, key) >= least:
                raise RecipeError(f"{key} is {getattr(self, key)}, less than {least}")
        for key in ("timeout", "total_timeout"):
            if not getattr(self, key) > 0:
                raise RecipeError(f"{key} is {getattr(self, key)}, not above 0 seconds")
        if self.processes_count != "auto" and self.processes_count < 1:
            raise RecipeError(f"processes_count is {self.processes_count}, less than 1")
        self._check_quality()
        self._check_columns()

    def _check_quality(self) -> None:
        most = 9 if self.encode_format == "png" else 100
        if self.encode_quality != "auto" and not 0 <= self.encode_quality <= most:
            meaning = " (its compression)" if most == 9 else ""
            raise RecipeError(
                f"encode_quality is {self.encode_quality}; "
                f"{self.encode_format} takes 0 to {most}{meaning}"
            )

    def _check_columns(self) -> None:
        if self.verify_hash and (len(self.verify_hash) != 2 or self.verify_hash[1] not in HASHES):
            raise RecipeError(
                f"verify_hash is {','.join(self.verify_hash)}; give a column and its hash, "
                "as md5sum,md5"
            )
        if self.verify_hash and self.verify_hash[1] != self.compute_hash:
            raise RecipeError(
                f"verify_hash checks {self.verify_hash[1]} but compute_hash is "
                f"{self.compute_hash}; give the same"
            )
        taken = RESERVED & set(self.save_additional_columns)
        if taken:
            raise RecipeError(
                f"save_additional_columns names {', '.join(sorted(taken))}, which the output "
                "fills itself; rename it in the list"
            )

    @property
    def quality(self) -> int:
        """What the encoder is told: quality, of png compression."""
        if self.encode_quality != "auto":
            return self.encode_quality
        return 6 if self.encode_format == "png" else 95

    @property
    def processes(self) -> int:
        """How many worker processes there are at most."""
        if self.processes_count != "auto":
            return self.processes_count
        return min(os.cpu_count() or 1, 16)

    @property
    def reencodes(self) -> bool:
        """Whether pictures are decoded at all."""
        return not self.disable_all_reencoding

    def shard_name(self, number: int) -> str:
        """The shard's number as its files begin with."""
        return f"{number:0{self.oom_shard_count}d}"

    def shaping(self) -> dict[str, Any]:
        """The settings that decide what the shards hold."""
        found = {key: getattr(self, key) for key in _SHAPING}
        return {k: str(v) if isinstance(v, float) else v for k, v in found.items()} | {
            "encode_quality": self.quality
        }


UNUSED = {
    "enable_wandb": "nothing is sent; the numbers are in the *_stats.json files",
    "wandb_project": "nothing is sent; the numbers are in the *_stats.json files",
    "subjob_size": "there are no jobs of several shards here",
    "distributor": "worker processes on this machine are used",
}
"""Options of img2dataset that are taken and do nothing, and why."""
_ELSEWHERE = {
    "bbox_col": "blurring is no part of the download: use an operator on what was downloaded",
}
_LISTS = ("save_additional_columns", "verify_hash", "disallowed_header_directives")


def config_of(given: Mapping[str, str]) -> tuple[DownloadConfig, list[str]]:
    """The configuration that words of a command line say, and notes on options without effect.

    Raises:
        RecipeError: names the option, its value and what it takes.
    """
    from pydantic import TypeAdapter, ValidationError

    known = [field.name for field in fields(DownloadConfig)]
    notes, kept = [], {}
    for key, text in given.items():
        if key in UNUSED:
            notes += _note_of(key, text)
        elif key in _ELSEWHERE:
            raise RecipeError(f"{key}: {_ELSEWHERE[key]}")
        elif key not in known:
            raise RecipeError(f"no option {key!r}{_nearest(key, [*known, *UNUSED])}")
        else:
            kept[key] = _value_of(key, text)
    try:
        config = TypeAdapter(DownloadConfig).validate_python(kept)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        raise RecipeError(f"{key} is {given.get(key)!r}: {first['msg']}") from None
    return config, notes


def _note_of(key: str, text: str) -> list[str]:
    if key == "distributor" and text != "multiprocessing":
        raise RecipeError(f"distributor is {text!r}; only multiprocessing is there: leave it out")
    is_default = key in ("distributor", "subjob_size") or text.lower() in ("false", "0", "none")
    return [] if is_default else [f"--{key} is without effect: {UNUSED[key]}"]


def _value_of(key: str, text: str) -> Any:
    if key not in _LISTS:
        return "none" if key in ("compute_hash", "caption_col") and text == "None" else text
    bare = text.strip()
    if bare in ("", "None", "[]"):
        return ("none",) if key == "save_additional_columns" else ()
    words = bare.removeprefix("[").removesuffix("]").split(",")
    return tuple(word.strip().strip("'\"") for word in words)


def _nearest(key: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]}?" if near else "; see `vlforge download --help`"


def settled(config: DownloadConfig) -> tuple[Path, Path]:
    """Source and target, absolute.

    Raises:
        RecipeError: one of them is missing.
    """
    if not config.url_list or not config.output_folder:
        missing = "list of addresses" if not config.url_list else "folder for the pictures"
        raise RecipeError(f"no {missing} given; e.g. vlforge download urls.tsv pictures")
    return Path(config.url_list).absolute(), Path(config.output_folder).absolute()
