"""How numbers are written on pages and in the terminal: three significant figures, no noise."""

from __future__ import annotations

import math

NONE = "–"
"""Stands where there is no number."""


def count(value: float | None) -> str:
    """A whole number with thousands separated: 20,000."""
    return NONE if value is None else f"{round(value):,}"


def figures(value: float | None, digits: int = 3) -> str:
    """A quantity to `digits` significant figures, without an exponent where it stays short."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size >= 7 or size < -4:
        return f"{value:.{digits - 1}e}"
    rounded = round(value, digits - 1 - size)
    if size >= digits - 1 or rounded == int(rounded):
        return f"{rounded:,.0f}"
    return f"{rounded:,.{max(0, digits - 1 - size)}f}".rstrip("0")


def score(value: float | None, digits: int = 3) -> str:
    """A share from 0 to 1 with fixed decimals, so that columns line up."""
    return NONE if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign; the minus is as wide as the plus."""
    if value is None:
        return NONE
    text = f"{value:+.{digits}f}"
    return text.replace("-", "\u2212") if float(text) else f"±{abs(value):.{digits}f}"


def percent(part: float, whole: float) -> str:
    """`part` of `whole` in percent; tiny shares do not turn into 0 nor nearly all into 100."""
    if not whole:
        return NONE
    share = 100 * part / whole
    if 0 < share < 1:
        return f"{share:.1f} %" if share >= 0.05 else "< 0.1 %"
    return f"{share:.1f} %" if 99 < share < 100 else f"{share:.0f} %"


def seconds(value: float | None) -> str:
    """A duration in the unit a reader would use: 0.4 s, 58 s, 4 min 10 s, 2 h 5 min."""
    if value is None:
        return NONE
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
