"""Files packed by zstd, unpacked as they are read."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from vlforge.types import DataError

_READ = 1 << 16


def open_zst(path: Path) -> BinaryIO:
    """The unpacked content of a `.zst` file; it can be read, not sought.

    Raises:
        DataError: the library is missing; names it.
        OSError: the file cannot be opened.
    """
    try:
        import zstandard
    except ImportError:
        raise DataError(f"dataset {path} is packed by zstd: pip install zstandard") from None
    return cast(BinaryIO, io.BufferedReader(_Unpacked(path, zstandard), 1 << 20))


class _Unpacked(io.RawIOBase):
    """Bytes of any number of zstd frames; a cut-off file raises EOFError at its end."""

    def __init__(self, path: Path, zstandard: Any):
        self._file = path.open("rb")
        self._fault: type[Exception] = zstandard.ZstdError
        self._start: Callable[[], Any] = lambda: zstandard.ZstdDecompressor().decompressobj()
        self._frame = self._start()
        self._is_within = False
        self._left = b""
        self._packed = b""

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, target: Any) -> int:
        """Fill `target`; 0 at the end of the file."""
        while not self._left:
            self._packed = self._packed or self._file.read(_READ)
            if not self._packed and self._is_within:
                raise EOFError("the packed file ends too early")
            if not self._packed:
                return 0
            self._unpack()
        size = min(len(target), len(self._left))
        target[:size] = self._left[:size]
        self._left = self._left[size:]
        return size

    def _unpack(self) -> None:
        try:
            self._left = self._frame.decompress(self._packed)
        except self._fault as error:
            raise OSError(str(error)) from None
        self._is_within = not self._frame.eof
        self._packed = self._frame.unused_data
        if self._frame.eof:
            self._frame = self._start()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
