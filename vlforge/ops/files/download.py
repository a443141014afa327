"""Fetching the files that rows name by an address on the web."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from vlforge.ops.files.transfer import Fetching, Open


@dataclass(frozen=True, kw_only=True)
class DownloadFileMapper(Fetching):
    """Download the files whose http or https addresses stand in a field.

    `download_field` holds one address or a list. With `save_dir` each file is
    written there, whole or not at all, and the field gets its absolute path. With
    `save_field` that field gets the bytes (of a list, a list). With neither, the
    bytes go to `image_bytes_key`. Rows without an address stay as they are, and so
    do local paths; `save_field` takes their bytes only with `allow_private`.

    A file keeps its name; where two addresses end in the same name the later one
    gets a hash before its suffix (Data-Juicer gives both rows the first one's
    file). `resume_download` uses files and bytes that are there already; without
    it files are fetched again, and a row whose `save_field` is filled is dropped.

    `max_concurrent` files are fetched at a time in each worker. `timeout` is in
    seconds, for the connection and for the whole file. `max_bytes` (default 1 GiB)
    is the most that a file may have. Addresses of this machine and of private
    networks are refused, also behind names and redirections, unless
    `allow_private` is set. Proxies of the environment are used.

    A row of which one file cannot be had is dropped with the reason. With
    `compat: data_juicer` it stays, with the address in place of the path and null
    for the bytes, and files go by their names alone and are never fetched again.
    """

    called: ClassVar = "download_file_mapper"

    def opener(self) -> Open:
        """Opens an address on the web."""
        from vlforge.ops.files.web import open_url

        return partial(open_url, timeout=self.timeout, allow_private=self.allow_private)
