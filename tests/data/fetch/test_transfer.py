"""One file over HTTP: whole in the end, whatever happens on the way."""

from __future__ import annotations

import errno
import hashlib
import random

import pytest

from tests.fetch_site import Page, running_web
from vlforge.data.download import addresses
from vlforge.data.download.addresses import Refused
from vlforge.data.fetch import transfer
from vlforge.data.fetch.run import web_client
from vlforge.data.fetch.transfer import Part, Transfer, WrongSum, probe

BODY = random.Random(5).randbytes(300_000)
SUM = hashlib.sha256(BODY).hexdigest()
OTHER = random.Random(6).randbytes(300_000)


@pytest.fixture
def web(monkeypatch):
    """A running site."""
    with running_web(monkeypatch) as server:
        yield server


def transfer_of(folder, wanted=None, retries=3, **options) -> Transfer:
    """A transfer that does not wait between its tries."""
    client = web_client(allow_private=True, patience_s=60)
    return Transfer(
        client, Part(folder), lambda done, total: None, wanted or {}, retries=retries,
        backoff_s=0.0, **options,
    )  # fmt: skip


def begun(web, folder, page: Page, count: int) -> None:
    """Leave a part of `count` bytes, as a run that was killed does."""
    web.pages["/a"] = page
    page.cuts = [count]
    with pytest.raises(Refused):
        transfer_of(folder, retries=0).get([f"{web.url}/a"])
    assert (folder / "data").read_bytes() == page.body[:count]
    web.seen.clear()


def test_a_file_comes_whole_and_with_its_sum(web, tmp_path):
    web.pages["/a"] = Page(BODY, etag='"one"')
    assert probe(web_client(allow_private=True), f"{web.url}/a").total == len(BODY)
    whole = transfer_of(tmp_path).get([f"{web.url}/a"])
    assert (tmp_path / "data").read_bytes() == BODY
    assert (whole.size, whole.sums["sha256"], whole.told.etag) == (len(BODY), SUM, '"one"')


def test_a_complete_part_is_not_asked_for_again(web, tmp_path):
    web.pages["/a"] = Page(BODY)
    transfer_of(tmp_path).get([f"{web.url}/a"])
    web.seen.clear()
    assert transfer_of(tmp_path).get([f"{web.url}/a"]).sums["sha256"] == SUM
    assert not web.seen


@pytest.mark.parametrize("said", [{"etag": '"one"'}, {"modified": "Mon, 03 Aug 2026 10:00:00 GMT"}])
def test_a_part_goes_on_where_the_server_vouches_for_it(web, tmp_path, said):
    begun(web, tmp_path, Page(BODY, **said), 100_000)
    whole = transfer_of(tmp_path).get([f"{web.url}/a"])
    assert (tmp_path / "data").read_bytes() == BODY
    assert whole.sums["sha256"] == SUM
    (asked,) = web.seen
    assert (asked.range, asked.if_range) == ("bytes=100000-", next(iter(said.values())))


@pytest.mark.parametrize("said", [{}, {"etag": 'W/"weak"'}])
def test_a_part_begins_anew_where_nobody_vouches_for_it(web, tmp_path, said):
    begun(web, tmp_path, Page(BODY, **said), 100_000)
    assert transfer_of(tmp_path).get([f"{web.url}/a"]).sums["sha256"] == SUM
    assert [asked.range for asked in web.seen] == [""]


def test_with_a_sum_a_part_goes_on_without_a_voucher(web, tmp_path):
    begun(web, tmp_path, Page(BODY), 100_000)
    assert transfer_of(tmp_path, {"sha256": SUM}).get([f"{web.url}/a"]).sums["sha256"] == SUM
    assert [asked.range for asked in web.seen] == ["bytes=100000-"]


def test_a_server_without_ranges_gives_all_of_it_again(web, tmp_path):
    begun(web, tmp_path, Page(BODY, ranges=False, etag='"one"'), 100_000)
    assert transfer_of(tmp_path).get([f"{web.url}/a"]).sums["sha256"] == SUM
    assert (tmp_path / "data").read_bytes() == BODY


def test_a_file_that_changed_is_never_glued_to_the_old_part(web, tmp_path):
    begun(web, tmp_path, Page(BODY, etag='"one"'), 100_000)
    web.pages["/a"] = Page(OTHER, etag='"two"')
    transfer_of(tmp_path).get([f"{web.url}/a"])
    assert (tmp_path / "data").read_bytes() == OTHER


def test_a_server_that_ignores_if_range_is_found_out_by_the_tag(web, tmp_path, monkeypatch):
    begun(web, tmp_path, Page(BODY, etag='"one"'), 100_000)
    web.pages["/a"] = Page(OTHER, etag='"two"')
    serve = web.RequestHandlerClass.serve

    def careless(self, page, asked, **more):
        asked.if_range = ""
        serve(self, page, asked, **more)

    monkeypatch.setattr(web.RequestHandlerClass, "serve", careless)
    transfer_of(tmp_path).get([f"{web.url}/a"])
    assert (tmp_path / "data").read_bytes() == OTHER


def test_a_file_that_became_shorter_begins_anew(web, tmp_path):
    begun(web, tmp_path, Page(BODY, etag='"one"'), 200_000)
    web.pages["/a"] = Page(OTHER[:50_000], etag='"one"')
    transfer_of(tmp_path).get([f"{web.url}/a"])
    assert (tmp_path / "data").read_bytes() == OTHER[:50_000]


def test_a_part_that_was_whole_when_the_run_was_killed_is_taken(web, tmp_path):
    begun(web, tmp_path, Page(BODY, etag='"one"'), len(BODY) - 1)
    with (tmp_path / "data").open("ab") as file:
        file.write(BODY[-1:])
    whole = transfer_of(tmp_path).get([f"{web.url}/a"])
    assert (whole.sums["sha256"], whole.told.etag) == (SUM, '"one"')
    assert [asked.range for asked in web.seen] == [f"bytes={len(BODY)}-"]


def test_a_line_that_breaks_again_and_again_gets_there_while_it_gets_on(web, tmp_path):
    web.pages["/a"] = Page(BODY, etag='"one"', cuts=[70_000, 70_000, 70_000, 70_000])
    assert transfer_of(tmp_path, retries=1).get([f"{web.url}/a"]).sums["sha256"] == SUM
    assert len(web.seen) == 5


def test_an_answer_without_a_length_is_taken_to_its_end(web, tmp_path):
    web.pages["/a"] = Page(BODY, told=False)
    assert transfer_of(tmp_path).get([f"{web.url}/a"]).sums["sha256"] == SUM


def test_passing_faults_are_waited_out_and_final_ones_are_not(web, tmp_path):
    web.pages["/a"] = Page(BODY, codes=[500, 503])
    assert transfer_of(tmp_path / "a").get([f"{web.url}/a"]).sums["sha256"] == SUM
    web.seen.clear()
    with pytest.raises(Refused, match="HTTP Error 404"):
        transfer_of(tmp_path / "b").get([f"{web.url}/none"])
    assert len(web.seen) == 1


def test_the_next_mirror_is_asked_and_a_wrong_sum_names_both(web, tmp_path):
    web.pages["/bad"], web.pages["/a"] = Page(OTHER), Page(BODY)
    urls = [f"{web.url}/none", f"{web.url}/bad", f"{web.url}/a"]
    assert transfer_of(tmp_path / "a", {"sha256": SUM}).get(urls).told.url == urls[2]
    wrong = hashlib.sha256(OTHER).hexdigest()
    with pytest.raises(Refused, match=f"sha256 is {wrong}, it has to be {SUM}"):
        transfer_of(tmp_path / "b", {"sha256": SUM}).get(urls[:2])
    assert not (tmp_path / "b" / "data").exists()


def test_a_part_from_one_mirror_goes_on_at_another_only_under_a_sum(web, tmp_path):
    begun(web, tmp_path, Page(BODY, etag='"one"'), 100_000)
    web.pages["/b"] = Page(BODY, etag='"elsewhere"')
    transfer_of(tmp_path, {"md5": hashlib.md5(BODY).hexdigest()}).get([f"{web.url}/b"])
    assert (tmp_path / "data").read_bytes() == BODY
    assert [(a.range, a.if_range) for a in web.seen] == [("bytes=100000-", "")]


def test_a_web_page_in_place_of_a_file_is_refused(web, tmp_path):
    web.pages["/a"] = Page(b"<html>sign in</html>", kind="text/html; charset=utf-8")
    with pytest.raises(Refused, match="a web page comes instead"):
        transfer_of(tmp_path).get([f"{web.url}/a"])
    assert transfer_of(tmp_path, page_ok=True).get([f"{web.url}/a"]).size == 20


def test_private_addresses_are_refused_also_behind_a_redirection(web, tmp_path, monkeypatch):
    web.pages["/a"], web.pages["/to"] = Page(BODY), Page(b"", to="http://10.0.0.1/a")
    with pytest.raises(Refused, match="private address"):
        probe(web_client(), f"{web.url}/a")
    assert not web.seen
    is_public = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda ip: ip == "127.0.0.1" or is_public(ip))
    assert probe(web_client(), f"{web.url}/a").total == len(BODY)
    with pytest.raises(Refused, match="private address"):
        probe(web_client(), f"{web.url}/to")


def test_a_full_disk_keeps_what_came_and_goes_on_later(web, tmp_path, monkeypatch):
    web.pages["/a"] = Page(BODY, etag='"one"')
    write, left = transfer._write, [3]

    def short(file, data):
        left[0] -= 1
        if left[0] < 0:
            file.write(data[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    monkeypatch.setattr(transfer, "_write", short)
    with pytest.raises(OSError, match="No space left"):
        transfer_of(tmp_path).get([f"{web.url}/a"])
    assert 0 < (tmp_path / "data").stat().st_size < len(BODY)
    monkeypatch.setattr(transfer, "_write", write)
    assert transfer_of(tmp_path).get([f"{web.url}/a"]).sums["sha256"] == SUM
    assert web.seen[-1].range.startswith("bytes=")


def test_a_wrong_sum_is_no_error_of_the_line(web, tmp_path):
    web.pages["/a"] = Page(OTHER)
    with pytest.raises(WrongSum):
        transfer_of(tmp_path, {"sha256": SUM})._patiently(f"{web.url}/a")
    assert len(web.seen) == 1
