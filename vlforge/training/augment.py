"""Light changes to pictures, for sets so small that they would be learned by heart.

Shifts with repeated edges, brightness, contrast and noise. Never a mirror: text
is read. Everything is drawn from (seed, position of the sample in the run), so
that a resumed run and a run on more devices see the same pictures.

Shapes: B pictures, S pixels a side.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlforge.training.config import AugmentSpec

NOISE_BANK = 1 << 18


@dataclass(frozen=True)
class Augment:
    """How far pictures may change; `shift` is a share of the side, the rest of full scale."""

    seed: int
    shift: float = AugmentSpec.shift
    brightness: float = AugmentSpec.brightness
    contrast: float = AugmentSpec.contrast
    noise: float = AugmentSpec.noise

    @classmethod
    def of(cls, spec: bool | AugmentSpec, seed: int) -> Augment | None:
        """What a recipe's `augment:` asks for; None where it is off."""
        if spec is False:
            return None
        chosen = AugmentSpec() if spec is True else spec
        return cls(seed, **dataclasses.asdict(chosen))

    def __call__(self, pictures: Tensor, positions: np.ndarray) -> Tensor:
        """uint8 [B, S, S, 3] and the draws' positions [B] -> uint8 of the same shape."""
        draws = uniform(self.seed, positions, 6)
        side = pictures.shape[1]
        reach = int(self.shift * side)
        offsets = np.floor(draws[:, :2] * (2 * reach + 1)).astype(np.int64) - reach
        steps = torch.arange(side)
        rows = (steps + torch.from_numpy(offsets[:, :1])).clamp(0, side - 1)
        columns = (steps + torch.from_numpy(offsets[:, 1:])).clamp(0, side - 1)
        batch = torch.arange(len(pictures))[:, None, None]
        moved = pictures[batch, rows[:, :, None], columns[:, None, :]].float()
        span = torch.from_numpy(draws[:, 2:5] * 2 - 1).float()
        contrast = 1 + self.contrast * span[:, 0, None, None, None]
        brightness = 255 * self.brightness * span[:, 1, None, None, None]
        changed = (moved - 127.5) * contrast + 127.5 + brightness
        changed += 255 * self.noise * span[:, 2, None, None, None].abs() * self._noise(moved, draws)
        return changed.round_().clamp_(0, 255).to(torch.uint8)

    def _noise(self, like: Tensor, draws: np.ndarray) -> Tensor:
        """Normal noise cut from one bank at a drawn offset: a draw per pixel would cost more."""
        bank = noise_bank(self.seed)
        size = like[0].numel()
        starts = np.floor(draws[:, 5] * NOISE_BANK).astype(np.int64)
        index = (torch.from_numpy(starts)[:, None] + torch.arange(size)) % NOISE_BANK
        return bank[index].reshape(like.shape)


def uniform(seed: int, positions: np.ndarray, draws: int) -> np.ndarray:
    """Numbers in [0, 1) that depend on (seed, position, column) alone: [len, draws] float64.

    Source: splitmix64, Steele, Lea and Flood 2014.
    """
    with np.errstate(over="ignore"):
        key = positions.astype(np.uint64)[:, None] * np.uint64(draws)
        key = key + np.arange(draws, dtype=np.uint64) + np.uint64(1)
        mixed = key * np.uint64(0x9E3779B97F4A7C15)
        mixed = mixed + np.uint64(seed % 2**32) * np.uint64(0xD1B54A32D192ED03)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed >> np.uint64(11)).astype(np.float64) / 2**53


_BANKS: dict[int, Tensor] = {}


def noise_bank(seed: int) -> Tensor:
    """Standard normal numbers of a seed, kept for the life of the process."""
    if seed not in _BANKS:
        _BANKS.clear()
        generator = np.random.Generator(np.random.Philox(key=[seed % 2**63, 1]))
        _BANKS[seed] = torch.from_numpy(generator.standard_normal(NOISE_BANK, dtype=np.float32))
    return _BANKS[seed]
