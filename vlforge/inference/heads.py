"""Small networks on the embedding of a picture: aesthetics, NSFW, watermarks.

Files of three published kinds are told by the names of their weights: LAION's
improved-aesthetic-predictor and H14 NSFW detector (`layers.N`), its aesthetic predictor
(one linear layer), its NSFW heads (`norm`, `linear_N`); and the folders of the
aesthetics predictors that Data-Juicer uses, which hold the encoder too.

N pictures, D width.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlforge.models.reading import read_tensors, weight_files
from vlforge.types import ModelError

if TYPE_CHECKING:
    from vlforge.inference.local import LocalModels

AESTHETICS = ("AestheticsPredictorV1", "AestheticsPredictorV2Linear", "AestheticsPredictorV2ReLU")
"""`architectures` of folders with an encoder and a head for aesthetics."""
HEAD_NAMES = ("layers.", "predictor.")
_PLAIN_WIDTHS = (1024, 128, 64, 16, 1)
_LAYER = re.compile(r"^(?:layers\.|predictor\.)?(?:(\d+)\.)?(weight|bias)$")
_LINEAR = re.compile(r"^linear_(\d+)\.(weight|bias)$")
_EPSILON = 1e-10

Layer = tuple[np.ndarray, np.ndarray]
"""Weight [out, in] and bias [out]."""


def open_head(models: LocalModels, path: str) -> LocalHead:
    """The head in a file, or in the folder of an aesthetics predictor, opened once.

    Raises:
        ModelError: no such file, or weights of another kind.
    """
    made: LocalHead = models.keep(("head", path), lambda: read_head(Path(path)))
    return made


def read_head(path: Path) -> LocalHead:
    """The head in a file (`.pth`, `.safetensors`) or folder; code in it is not run.

    Raises:
        ModelError: as `open_head`.
    """
    if path.is_dir():
        return LocalHead.of(_head_of_folder(path), str(path))
    return LocalHead.of({n: t.float().numpy() for n, t in read_tensors(path).items()}, str(path))


def _head_of_folder(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for file in weight_files(path):
        tensors = read_tensors(file)
        found |= {n: t.float().numpy() for n, t in tensors.items() if n.startswith(HEAD_NAMES)}
    if not found:
        raise ModelError(f"{path} holds no head for embeddings; name its file with `head`")
    return found


class LocalHead:
    """A multilayer perceptron that gives one number per embedding; a `Head`."""

    def __init__(
        self,
        layers: Sequence[Layer],
        bends: Sequence[bool],
        *,
        mean: Any = 0.0,
        deviation: Any = 1.0,
        is_probability: bool = False,
        path: str = "",
    ):
        """`bends` says after which layers but the last there is a ReLU."""
        self.layers, self.bends, self.path = list(layers), list(bends), path
        self.mean, self.deviation = mean, deviation
        self.is_probability = is_probability

    @classmethod
    def of(cls, weights: Mapping[str, np.ndarray], path: str) -> LocalHead:
        """From weights by name.

        Raises:
            ModelError: names or shapes that belong to no head this can read.
        """
        has_norm = any(name.startswith("norm.") for name in weights)
        make = cls._of_nsfw if has_norm else cls._of_sequence
        try:
            made = make(weights, path)
        except KeyError as error:
            raise ModelError(
                f"{path} has no {error.args[0]}, as a head for embeddings has"
            ) from None
        made.check()
        return made

    @classmethod
    def _of_nsfw(cls, weights: Mapping[str, np.ndarray], path: str) -> LocalHead:
        layers = _by_number(weights, _LINEAR, path)
        return cls(
            list(layers.values()),
            [True] * (len(layers) - 1),
            mean=weights["norm.mean"],
            deviation=np.sqrt(weights["norm.variance"]) + _EPSILON,
            is_probability=True,
            path=path,
        )

    @classmethod
    def _of_sequence(cls, weights: Mapping[str, np.ndarray], path: str) -> LocalHead:
        layers = _by_number(weights, _LAYER, path)
        widths = tuple(len(bias) for _, bias in layers.values())
        places = list(layers)
        gaps = [after - before - 1 for before, after in itertools.pairwise(places)]
        # LAION's linear stack drops out between its layers and nothing else: as it is published.
        is_linear = widths == _PLAIN_WIDTHS and max(gaps) == 1 and gaps[-1] == 0
        return cls(list(layers.values()), [gap > 0 and not is_linear for gap in gaps], path=path)

    def check(self) -> None:
        """Refuse layers that do not fit each other, or more than one number.

        Raises:
            ModelError: they do not.
        """
        shapes = [weight.shape for weight, _ in self.layers]
        fit = all(a[0] == b[1] for a, b in itertools.pairwise(shapes))
        if not fit or shapes[-1][0] != 1:
            raise ModelError(
                f"{self.path}: layers {', '.join(map(str, shapes))} are no head that gives one "
                "number per embedding"
            )

    def judge(self, vectors: Any) -> list[float]:
        """One number per unit vector, as the head's last layer gives it.

        Raises:
            ModelError: embeddings of another width.
        """
        x_ND = np.asarray(vectors, np.float32)
        wanted = self.layers[0][0].shape[1]
        if not len(x_ND):
            return []
        if x_ND.shape[-1] != wanted:
            raise ModelError(
                f"{self.path} judges embeddings of width {wanted}, the encoder gives "
                f"{x_ND.shape[-1]}: they do not belong together"
            )
        x_ND = (x_ND - self.mean) / self.deviation
        for (weight, bias), bends in zip(self.layers, [*self.bends, False], strict=True):
            x_ND = x_ND @ weight.T + bias
            x_ND = np.maximum(x_ND, 0) if bends else x_ND
        told = x_ND[:, 0].astype(np.float64)
        return (1 / (1 + np.exp(-told)) if self.is_probability else told).tolist()


def _by_number(
    weights: Mapping[str, np.ndarray], pattern: re.Pattern[str], path: str
) -> dict[int, Layer]:
    """Layers in order of their numbers."""
    named: dict[int, dict[str, np.ndarray]] = {}
    for name, value in weights.items():
        found = pattern.match(name)
        if found is not None:
            named.setdefault(int(found[1] or 0), {})[found[2]] = value
        elif not name.startswith("norm."):
            raise ModelError(f"{path}: {name} belongs to no head for embeddings that can be read")
    if not named:
        raise ModelError(f"{path} holds no layers of a head for embeddings")
    return {at: (named[at]["weight"], named[at]["bias"]) for at in sorted(named)}
