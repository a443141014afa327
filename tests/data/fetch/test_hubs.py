"""Repositories of the hubs, through their libraries, from an endpoint on this machine."""

from __future__ import annotations

import hashlib
import sys
import types
from pathlib import Path

import pytest

from tests.fetch_site import COMMIT, Page, running_web, sha256
from vlforge.data.download import addresses
from vlforge.data.download.addresses import Refused
from vlforge.data.fetch import hubs
from vlforge.data.fetch.hubs import HubFile, Listing, fetch_file, halves, list_files
from vlforge.data.fetch.manifest import Item
from vlforge.data.fetch.run import web_client
from vlforge.data.fetch.source import source_of
from vlforge.data.fetch.transfer import WrongSum
from vlforge.types import RecipeError

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"tensors" * 5000,
    "pytorch_model.bin": b"pickle" * 5000,
    "sub/vocab.txt": b"a\nb\n",
    ".gitattributes": b"x",
}


@pytest.fixture
def web(monkeypatch):
    """A running site with one model and one dataset."""
    with running_web(monkeypatch) as server:
        server.repos["models/o/n"] = {path: Page(body) for path, body in FILES.items()}
        server.repos["datasets/o/d"] = {"a.zip": Page(b"zip")}
        yield server


def item(source: str, **options) -> Item:
    """An item from one place."""
    return Item("x", options.pop("kind", "repo"), "x", (source_of(source),), **options)


def listed(one: Item, **options) -> Listing:
    """What of its source an item wants."""
    return list_files(one, one.sources[0], web_client(allow_private=True, **options))


def test_a_repositorys_files_are_listed_with_sizes_and_sums(web):
    found = listed(item("hf:o/n"))
    assert found.revision == COMMIT
    assert sorted(file.path for file in found.files) == sorted(set(FILES) - {".gitattributes"})
    config = next(file for file in found.files if file.path == "config.json")
    assert config == HubFile("config.json", 2, hashlib.sha256(b"{}").hexdigest())
    assert listed(item("hf:datasets/o/d/a.zip", kind="archive")).size == 3


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ({"patterns": ("*.json",)}, ["config.json"]),
        ({"ignore": ("*.bin", "sub/*")}, ["config.json", "model.safetensors"]),
        ({"one_format": True}, ["config.json", "model.safetensors", "sub/vocab.txt"]),
    ],
)
def test_only_what_is_wanted_is_taken(web, options, paths):
    assert sorted(file.path for file in listed(item("hf:o/n", **options)).files) == paths


def test_one_format_keeps_what_there_is_where_there_are_no_safetensors(web):
    del web.repos["models/o/n"]["model.safetensors"]
    paths = {file.path for file in listed(item("hf:o/n", one_format=True)).files}
    assert "pytorch_model.bin" in paths


def test_files_come_through_the_library_and_are_checked(web, tmp_path):
    found = listed(item("hf:o/n"))
    for file in found.files:
        fetch_file(found, file, tmp_path, web_client(allow_private=True))
        assert (tmp_path / file.path).read_bytes() == FILES[file.path]


def test_a_wrong_sum_names_both_and_leaves_nothing(web, tmp_path):
    page = web.repos["models/o/n"]["config.json"]
    found = listed(item("hf:o/n", patterns=("config.json",)))
    right = sha256(page)
    page.body = b"[]"
    file = found.files[0]
    with pytest.raises(WrongSum, match=f"it has to be {right}"):
        fetch_file(found, file, tmp_path, web_client(allow_private=True))
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("hf:o/none", "no such repository, or a private one"),
        ("hf:o/n/none.json", "o/n has no none.json among its 5 files"),
    ],
)
def test_faults_are_one_line(web, source, said):
    with pytest.raises(Refused, match=said):
        listed(item(source, kind="file" if source.endswith("json") else "repo"))


def test_terms_that_are_to_be_accepted_are_said(web, monkeypatch):
    hub = web.RequestHandlerClass.hub
    headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"}
    monkeypatch.setattr(
        web.RequestHandlerClass,
        "hub",
        lambda self: self.say(403, b"", **headers) if "gated" in self.path else hub(self),
    )
    with pytest.raises(
        Refused, match=r"terms are accepted: do so at https://huggingface.co/o/gated"
    ):
        listed(item("hf:o/gated"))


def test_a_private_endpoint_is_refused_unless_allowed(web):
    with pytest.raises(Refused, match="private address"):
        list_files(item("hf:o/n"), source_of("hf:o/n"), web_client())
    assert not web.seen


def test_a_redirection_to_a_private_address_is_refused_in_the_library_too(
    web, tmp_path, monkeypatch
):
    web.repos["models/o/n"]["config.json"].to = "http://10.0.0.1/config.json"
    is_public = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda ip: ip == "127.0.0.1" or is_public(ip))
    found = list_files(item("hf:o/n"), source_of("hf:o/n"), web_client())
    config = next(file for file in found.files if file.path == "config.json")
    with pytest.raises(Refused, match="private address"):
        fetch_file(found, config, tmp_path, web_client())


def test_a_repository_that_names_files_outside_of_itself_is_refused(web):
    web.repos["models/o/n"]["../up.json"] = Page(b"{}")
    with pytest.raises(Refused, match="outside of itself"):
        listed(item("hf:o/n"))


def test_a_missing_library_is_one_line(web, monkeypatch):
    monkeypatch.setattr(hubs, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"needs huggingface_hub: pip install 'vlforge\[hubs\]'"):
        listed(item("hf:o/n"))
    with pytest.raises(RecipeError, match=r"ModelScope needs modelscope: pip install"):
        listed(item("modelscope:o/n"))


@pytest.fixture
def modelscope(monkeypatch):
    """The parts of modelscope's library that are used, with one repository."""

    class Api:
        def get_model_files(self, model_id, revision, recursive):
            assert (model_id, revision, recursive) == ("o/n", "v1", True)
            return [
                {"Path": "sub", "Size": 0, "Type": "tree"},
                {"Path": "config.json", "Size": 2, "Type": "blob", "Sha256": _sum(b"{}")},
            ]

        def get_dataset_files(
            self, repo_id, revision, root_path, recursive, page_number, page_size
        ):
            count = page_size if page_number < 3 else 7
            return [{"Path": f"{page_number}-{n}.json", "Size": 2} for n in range(count)]

    def bring(repo, path, revision, local_dir):
        if "fails" in path:
            raise ValueError("the hub says\nno")
        (Path(local_dir) / path).write_bytes(b"{}")

    package = types.ModuleType("modelscope")
    api = types.SimpleNamespace(HubApi=Api)
    download = types.SimpleNamespace(model_file_download=bring, dataset_file_download=bring)
    hub = types.SimpleNamespace(api=api, file_download=download)
    for name, module in [
        ("modelscope", package), ("modelscope.hub", hub), ("modelscope.hub.api", api),
        ("modelscope.hub.file_download", download),
    ]:  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(hubs, "find_spec", lambda name: name)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:1")


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_files_on_their_way_are_counted_where_the_libraries_keep_them(tmp_path):
    paths = [tmp_path / "a.bin", tmp_path / "b.bin"]
    for name, size in [
        (".cache/huggingface/download/x.incomplete", 5), (".cache/huggingface/x.lock", 1),
        ("a.bin.incomplete", 7), ("._____temp/b.bin", 11), ("other.incomplete", 100),
    ]:  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    assert sorted(size for _, size in halves(tmp_path, paths)) == [5, 7, 11]


def test_modelscopes_models_come_through_its_library(modelscope, tmp_path):
    found = listed(item("modelscope:o/n@v1"))
    assert found.files == (HubFile("config.json", 2, _sum(b"{}")),)
    client = web_client(allow_private=True)
    assert fetch_file(found, found.files[0], tmp_path, client) == _sum(b"{}")


def test_modelscopes_datasets_are_listed_page_by_page(modelscope):
    assert len(listed(item("modelscope:datasets/o/d")).files) == 207


def test_modelscopes_faults_are_one_line(modelscope, tmp_path):
    found = Listing(source_of("modelscope:o/n"), "master", (HubFile("fails", 2),))
    with pytest.raises(Refused, match="o/n: ValueError: the hub says no"):
        fetch_file(found, found.files[0], tmp_path, web_client(allow_private=True))


def test_modelscopes_private_endpoint_is_refused_unless_allowed(modelscope):
    with pytest.raises(Refused, match="private address"):
        list_files(item("modelscope:o/n"), source_of("modelscope:o/n@v1"), web_client())
