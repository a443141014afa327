"""The contest's folder: what lies where, and laying it out without overwriting anything."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlforge.challenges.ad_captions.arguments import CONFIGS, TEXTS
from vlforge.types import DataError

Mode = Literal["lora", "full"]
State = Literal["made", "there", "missing"]
_TSV_NAMES = (".txt", ".tsv", ".txt.gz", ".tsv.gz")
_PDPARAMS = ("*.pdparams", "*.pdparams.index.json")


@dataclass(frozen=True)
class Part:
    """A file or folder of the kit: what it is for, and whether it is there."""

    path: Path
    state: State
    about: str


@dataclass(frozen=True)
class Kit:
    """The places of a contest's folder."""

    folder: Path

    @property
    def data(self) -> Path:
        """The training data, as it came and as it is divided."""
        return self.folder / "data"

    @property
    def train(self) -> Path:
        """What is learned, in PaddleMIX's layout."""
        return self.data / "train.json"

    @property
    def val(self) -> Path:
        """What is asked about after training, in PaddleMIX's layout."""
        return self.data / "val.json"

    @property
    def submit(self) -> Path:
        """What is handed in."""
        return self.folder / "submit"

    @property
    def runs(self) -> Path:
        """Runs of ours and their store."""
        return self.folder / "runs"

    def config(self, mode: Mode) -> Path:
        """The arguments of PaddleMIX's training."""
        return self.folder / CONFIGS[mode]

    def recipe(self, mode: Mode) -> Path:
        """What the arguments amount to here."""
        return self.runs / f"ad_captions_{mode}.yaml"

    def run_dir(self, mode: Mode) -> Path:
        """The run's folder."""
        return self.runs / mode

    def tsv(self) -> Path:
        """The contest's text file.

        Raises:
            DataError: none is there, or several.
        """
        usual = self.data / "train.txt"
        if usual.is_file():
            return usual
        found = [path for path in _files(self.data) if path.name.endswith(_TSV_NAMES)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise DataError(
                f"{usual}: the contest's data is not there; vlforge fetch mgen_vl {self.folder} "
                "says where to get it"
            )
        names = ", ".join(path.name for path in found)
        raise DataError(
            f"{self.data} holds several data files ({names}); name one of them train.txt"
        )

    def base(self, mode: Mode = "lora") -> Path:
        """The folder with the contest's weights: as the arguments say, else the one in weights/.

        Raises:
            DataError: none is there, or several.
        """
        named = _named_model(self.config(mode))
        for path in (self.folder / named, Path(named)) if named else ():
            if is_model(path):
                return path
        weights = self.folder / "weights"
        found = [path for path in (weights, *_folders(weights)) if is_model(path)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise DataError(
                f"{weights / 'mgen-vl-chat-7b'}: no model with config.json and .pdparams there; "
                f"vlforge fetch mgen_vl {self.folder} says where to get it"
            )
        names = ", ".join(path.name for path in found)
        raise DataError(
            f"{weights} holds several models ({names}); name one in {self.config(mode)}, "
            "model_name_or_path"
        )


def is_model(folder: Path) -> bool:
    """Whether a folder holds weights of Paddle, or any other model with its settings."""
    if not folder.is_dir() or not (folder / "config.json").is_file():
        return False
    patterns = (*_PDPARAMS, "*.safetensors")
    return any(next(folder.glob(pattern), None) for pattern in patterns)


def is_paddle(folder: Path) -> bool:
    """Whether the weights are `.pdparams`."""
    return any(next(folder.glob(pattern), None) for pattern in _PDPARAMS)


def lay_out(folder: Path) -> list[Part]:
    """Make what is missing of the contest's folder; what is there stays as it is.

    Raises:
        DataError: a place is taken by a file, or nothing can be written.
    """
    kit = Kit(folder)
    parts = [_folder(folder / name, about) for name, about in _FOLDERS]
    for mode, about in (("lora", "LoRA of rank 64"), ("full", "all of the language model")):
        parts.append(_text(kit.config(mode), TEXTS[mode], f"arguments: {about}"))  # type: ignore
    return [*parts, *given_parts(kit)]


def given_parts(kit: Kit, mode: Mode = "lora") -> list[Part]:
    """What the contest gives, and whether it is there."""
    parts = []
    for find, usual, about in (
        (kit.tsv, kit.data / "train.txt", "the contest's data: id, base64, caption"),
        (lambda: kit.base(mode), kit.folder / "weights/mgen-vl-chat-7b", "the contest's weights"),
    ):
        try:
            parts.append(Part(find(), "there", about))
        except DataError:
            parts.append(Part(usual, "missing", about))
    return parts


_FOLDERS = (
    ("data", "the contest's text file, and its two halves"),
    ("weights", "the contest's weights"),
    ("config/mgen_vl", "arguments of the training"),
    ("submit", "what is handed in"),
)


def _folder(path: Path, about: str) -> Part:
    state: State = "there" if path.is_dir() else "made"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path}: no folder can be made ({error.strerror or error})") from None
    return Part(path, state, about)


def _text(path: Path, text: str, about: str) -> Part:
    if path.exists():
        return Part(path, "there", about)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None
    return Part(path, "made", about)


def _named_model(config: Path) -> str:
    try:
        said = json.loads(config.read_text(encoding="utf-8")).get("model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return ""
    return said if isinstance(said, str) else ""


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_file())


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir())
