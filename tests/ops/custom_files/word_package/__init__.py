"""A package of operators, as Data-Juicer wants it."""

from . import mappers  # noqa: F401
