"""Making the next value while this one is used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Value = TypeVar("Value")


def one_ahead(values: Iterator[Value]) -> Iterator[Value]:
    """The same values in order; each is made in a thread while the one before is in use.

    At most two are alive: the one in use and the next. What making raises is raised here.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        coming = pool.submit(next, values, None)
        while (value := coming.result()) is not None:
            coming = pool.submit(next, values, None)
            yield value
