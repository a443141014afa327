"""A file is searched in chunks, and what lies across two of them is found."""

from __future__ import annotations

import pytest

from vlforge.engine.export import _CHUNK, META, _holds


@pytest.mark.parametrize("before", [0, 10, _CHUNK - len(META), _CHUNK - 3, _CHUNK, 2 * _CHUNK - 1])
def test_a_word_is_found_wherever_it_stands(tmp_path, before):
    path = tmp_path / "rows"
    path.write_bytes(b"_" * before + META.encode() + b"." * 50)
    assert _holds(path, META)
    path.write_bytes(b"_" * before + META.encode()[:-1] + b"." * 50)
    assert not _holds(path, META)


def test_nothing_holds_no_word(tmp_path):
    (tmp_path / "rows").touch()
    assert not _holds(tmp_path / "rows", META)
