"""Manifests: those of the known systems hold together, faults name the line and the nearest key."""

from __future__ import annotations

import pytest

from vlforge.data.fetch.manifest import FOLDER, Manifest, manifest_names, read_manifest
from vlforge.data.fetch.source import Source, source_of
from vlforge.types import RecipeError

SYSTEMS = ["better_synth", "mgen_vl", "mgm", "minigpt4", "xtuner_llava"]


def made(tmp_path, text: str) -> Manifest:
    """The manifest of a text."""
    (tmp_path / "m.yaml").write_text(text)
    return read_manifest(str(tmp_path / "m.yaml"))


def test_there_is_one_for_each_system():
    assert manifest_names() == SYSTEMS


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_systems_manifests_hold_together(name):
    manifest = read_manifest(name)
    places = [item.to for item in manifest.items]
    assert len(set(places)) == len(places)
    assert manifest.title
    assert manifest.chosen([])
    targets = {item.target for item in manifest.items if item.kind == "link"}
    assert all(any(p == t or p.startswith(f"{t}/") for p in places) for t in targets)
    for item in manifest.items:
        assert item.kind != "manual" or "http" in item.do or "baseline" in item.do


def test_no_size_or_sum_is_made_up():
    for name in SYSTEMS:
        text = (FOLDER / f"{name}.yaml").read_text()
        assert "sha256:" not in text
        assert "size:" not in text
        assert "md5:" not in text or "VLMEvalKit checks its tables" in text


def test_what_the_layouts_of_the_systems_name_is_there():
    places = {name: {item.to for item in read_manifest(name).items} for name in SYSTEMS}
    assert {
        "input/pretrain_stage_1_10k/mgm_pretrain_stage_1_10k.jsonl",
        "input/pretrain_stage_1_10k/stage_1.json",
        "toolkit/training/data/finetuning_stage_1_12k/mgm_instruction_stage_1_12k.json",
        "toolkit/training/model_zoo/LLM/gemma/gemma-2b-it",
        "toolkit/training/model_zoo/OpenAI/clip-vit-large-patch14-336",
    } <= places["better_synth"]
    images = "data/llava_data/llava_images"
    assert {
        "data/llava_data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json",
        f"{images}/coco/train2017", f"{images}/gqa/images", f"{images}/ocr_vqa/images",
        f"{images}/textvqa/train_images", f"{images}/vg/VG_100K", f"{images}/vg/VG_100K_2",
    } <= places["xtuner_llava"]  # fmt: skip
    assert {"weights/eva_vit_g.pth", "cc_sbu_align/filter_cap.json"} <= places["minigpt4"]
    assert {"data/MGM-Pretrain/mgm_pretrain.json", "model_zoo/LLM/vicuna/7B-V1.5"} <= places["mgm"]


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("https://a.org/x.zip", Source("http", "https://a.org/x.zip")),
        ("hf:o/n", Source("hf", "o/n")),
        ("hf:bert-base-uncased", Source("hf", "bert-base-uncased")),
        ("hf:datasets/o/n@v1/a/b.zip", Source("hf", "o/n", True, "v1", "a/b.zip")),
        ("modelscope:o/n.5@v1.1.0", Source("modelscope", "o/n.5", False, "v1.1.0")),
    ],
)
def test_sources_are_read_and_written_alike(text, source):
    assert source_of(text) == source
    assert source.text == text


@pytest.mark.parametrize("text", ["ftp://a/b", "o/n", "hf:", "hf:o/n/../x", "http:///x", "C:/x"])
def test_other_sources_are_refused(text):
    with pytest.raises(ValueError, match=r"is none of|leaves|no host"):
        source_of(text)


ITEM = "items:\n  - name: a\n    kind: file\n    to: a.json\n    from: https://a.org/a.json\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a manifest is a mapping"),
        ("- a\n", "a manifest is a mapping"),
        ("items: [\n", r"m\.yaml:2: not valid YAML"),
        ("title: x\n", "`items` is a list"),
        (ITEM.replace("kind: file", "kind: fil"), r"m.yaml:3: kind 'fil'.*did you mean 'file'"),
        (ITEM.replace("from", "form"), r"m.yaml:5: unknown key 'form'; did you mean 'from'"),
        ("titel: x\n" + ITEM, r"m.yaml:1: unknown key 'titel'; did you mean 'title'"),
        (ITEM.replace("a.json\n", "../a\n", 1), r"m.yaml:4: to '../a' does not lie below"),
        (ITEM.replace("to: a.json", "to: /etc/a"), r"m.yaml:4: to '/etc/a' does not lie below"),
        (ITEM.replace("https://a.org/a.json", "a.org"), r"m.yaml:5: 'a.org' is none of https"),
        (ITEM + "    sha256: abc\n", r"m.yaml:6: sha256 'abc' has not 64 hexadecimal"),
        (ITEM + "    size: 3 GB\n", r"m.yaml:6: size is '3 GB', not a number of bytes"),
        (ITEM + "    optional: perhaps\n", r"m.yaml:6: optional is 'perhaps', not true or false"),
        (ITEM + ITEM.partition("\n")[2], r"m.yaml:6: a second item 'a'"),
        (ITEM.replace("kind: file", "kind: manual"), r"m.yaml:5: kind manual takes no `from`"),
        (ITEM.replace("kind: file", "kind: repo"), "takes whole repositories"),
        (ITEM.partition("    from")[0].replace("kind: file", "kind: manual"), "needs `do`"),
        (ITEM.replace("https://a.org/a.json", "hf:o/n"), "hf:o/n has many"),
        (ITEM.replace("kind: file", "kind: archive").replace("https://a.org/a.json", "hf:o/n"),
         "give `patterns`"),
        (ITEM.replace("name: a", "name: a/b"), "has a slash"),
        ("name: ../m\n" + ITEM, r"m.yaml:1: name '../m' has a slash"),
    ],
)  # fmt: skip
def test_faults_name_the_line_and_the_nearest_key(tmp_path, text, said):
    with pytest.raises(RecipeError, match=said):
        made(tmp_path, text)


def test_a_wrong_name_gets_the_nearest(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'better_synth'"):
        read_manifest("beter_synth")
    with pytest.raises(RecipeError, match="no such manifest"):
        read_manifest(str(tmp_path / "none.yaml"))
    with pytest.raises(RecipeError, match="no item or group 'vicuna'; did you mean 'vicuna-7b'"):
        read_manifest("mgm").chosen(["vicuna"])


def test_items_and_groups_are_chosen_by_name_and_optional_ones_only_so():
    manifest = read_manifest("minigpt4")
    assert "vicuna-13b" not in {item.name for item in manifest.chosen([])}
    assert "vicuna-13b" in {item.name for item in manifest.chosen([], everything=True)}
    assert [item.name for item in manifest.chosen(["13b"])] == ["vicuna-13b", "minigpt4-13b"]
    assert [item.name for item in manifest.chosen(["eva-vit-g"])] == ["eva-vit-g"]
