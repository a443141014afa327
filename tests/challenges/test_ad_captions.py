"""The ad-caption kit's folder, rules, shell script and package, on folders made on the spot."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.challenges.test_ad_captions_data import contest, encoded, line, photo
from vlforge.challenges.ad_captions import packing
from vlforge.challenges.ad_captions.alone import predict
from vlforge.challenges.ad_captions.arguments import TEXTS, read_arguments, training_of
from vlforge.challenges.ad_captions.layout import Kit, lay_out
from vlforge.challenges.ad_captions.running import split_words
from vlforge.challenges.ad_captions.shell import faults_of
from vlforge.challenges.ad_captions.weights import Outline, adapter_size, changes
from vlforge.challenges.archive import Member
from vlforge.cli.start import main
from vlforge.types import DataError, WriteError

ALONE = Path(packing.__file__).with_name("alone")
SHELL = shutil.which("dash") or "sh"


def made_model(folder: Path, size: int = 10) -> Path:
    """A folder that looks like Paddle's weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "qwen.tiktoken").write_text("AA== 0\n")
    (folder / "model_state.pdparams").write_bytes(b"w" * size)
    (folder / "done.json").write_text("{}")
    return folder


# the folder


def test_init_completes_and_never_overwrites(tmp_path, capsys):
    folder = tmp_path / "ads"
    assert main(["challenge", "ad-captions", "init", str(folder)]) == 0
    assert "vlforge fetch mgen_vl" in capsys.readouterr().out
    config = folder / "config/mgen_vl/lora_sft_argument.json"
    config.write_text("mine")
    (folder / "config/mgen_vl/sft_argument.json").unlink()
    (folder / "data/train.txt").write_text("")
    made_model(folder / "weights/mgen-vl-chat-7b")
    assert main(["challenge", "ad-captions", "init", str(folder)]) == 0
    assert config.read_text() == "mine"
    assert (folder / "config/mgen_vl/sft_argument.json").is_file()
    assert "Next    vlforge challenge ad-captions check" in capsys.readouterr().out


def test_the_published_arguments_are_written(tmp_path):
    lay_out(tmp_path)
    lora, full = (
        training_of(read_arguments(Kit(tmp_path).config(mode))) for mode in ("lora", "full")
    )
    assert lora["lora"] == {"rank": 64, "alpha": 16.0, "dropout": 0.05, "targets": "ad_captions"}
    for stage in (lora, full):
        assert (stage["micro_batch"], stage["accumulation"], stage["epochs"]) == (1, 16, 1)
        assert stage["max_length"] == 2048
        optimiser = stage["optimiser"]
        assert (optimiser["lr"], optimiser["weight_decay"]) == (1e-5, 0.1)
        assert (optimiser["betas"], optimiser["warmup_ratio"]) == ([0.9, 0.95], 0.01)
        assert optimiser["schedule"] == "paddle_cosine"
    assert full["train"] == [r"connector\.attn_pool\.", "language"]
    assert "lora" not in full


def test_words_change_arguments_or_the_recipe():
    words = split_words(["learning_rate=2e-5", "stages.tune.cache=on", "threads=2"])
    assert words.arguments == {"learning_rate": "2e-5"}
    assert words.overrides == ("stages.tune.cache=on", "threads=2")
    with pytest.raises(DataError, match="write KEY=VALUE"):
        split_words(["learning_rate"])


# the rules


def outlined(shapes: dict[str, tuple[int, ...]], **settings: int) -> Outline:
    """Weights by name and shape."""
    return Outline(Path("weights"), shapes, frozenset(("bfloat16",)), settings)


def test_the_language_model_must_stay_and_all_else_may_change():
    shapes = {"transformer.llm.wte.weight": (9, 4), "lm_head.weight": (4, 9),
              "visual.proj": (4, 4)}  # fmt: skip
    base = outlined(shapes, hidden_size=4)
    assert changes(base, outlined({**shapes, "visual.proj": (5, 5), "visual.new": (1,)})) == []
    other = {"transformer.llm.wte.weight": (9, 5), "transformer.llm.h.0.new": (2,)}
    assert changes(base, outlined(other, hidden_size=5)) == [
        "config.json: hidden_size is 5, was 4",
        "1 weights gone: lm_head.weight",
        "1 weights new: transformer.llm.h.0.new",
        "1 of another shape, the first transformer.llm.wte.weight: [9, 5], was [9, 4]",
        "47 weights, were 72",
    ]


def test_the_adapter_of_the_real_model_has_its_published_weights():
    from vlforge.checkpoints.checkpoint import meta_model
    from vlforge.checkpoints.paddle import their_name
    from vlforge.models.qwen_vl import QwenVlConfig
    from vlforge.models.sizes import SIZES

    model = meta_model(QwenVlConfig.from_dict(dict(SIZES["qwen-vl-7b"])))
    shapes = {their_name(name): tuple(w.shape) for name, w in model.named_parameters()}
    assert adapter_size(shapes, 64) == (128, 112_197_632)
    whole = sum(w.numel() for w in model.parameters())
    assert f"{100 * 112_197_632 / (whole + 112_197_632):.2f}" == "1.15"


def test_what_is_missing_is_named_with_the_remedy(tmp_path, capsys):
    lay_out(tmp_path)
    assert main(["challenge", "ad-captions", "check", str(tmp_path), "--json"]) == 2
    told = json.loads(capsys.readouterr().out)["verdicts"]
    (broken,) = [one for one in told if one["verdict"] == "broken"]
    assert broken["rule"] == "given-files"
    assert "data/train.txt" in broken["found"]
    assert "vlforge fetch mgen_vl" in broken["remedy"]
    assert main(["challenge", "ad-captions", "run", str(tmp_path)]) == 2
    assert main(["challenge", "ad-captions", "check", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_bad_rows_scripts_and_weights_are_told_by_their_rules(tmp_path, capsys):
    from tests.tiny_qwen import folder as tiny
    from vlforge.checkpoints.checkpoint import Writing
    from vlforge.checkpoints.index import find, read_checkpoint
    from vlforge.models.folder import write_folder

    rows = [line(str(n), encoded(photo(n))) for n in range(25)]
    kit = contest(tmp_path, [*rows, "no picture\n"])
    write_folder(tiny(), tmp_path / "ours")
    base = tmp_path / "weights/mgen-vl-chat-7b"
    base.mkdir()
    find("paddle").write(read_checkpoint(tmp_path / "ours"), base, Writing())
    ours = str(tmp_path / "ours")
    (tmp_path / "run.sh").write_text("if [[ -f x ]]; then echo; fi\n")
    command = ["challenge", "ad-captions", "check", str(tmp_path), "--json"]
    assert main([*command, "--weights", ours]) == 2
    looked = json.loads(capsys.readouterr().out)
    found = {one["rule"]: one for one in looked["verdicts"]}
    broken = {name for name, one in found.items() if one["verdict"] == "broken"}
    assert broken == {"paddle-weights", "llm-structure", "posix-run-sh"}
    assert "--to paddle" in found["paddle-weights"]["remedy"]
    assert "run.sh:1: [[ … ]] is bash" in found["posix-run-sh"]["found"]
    assert [row["line"] for row in looked["bad_rows"]] == [26]
    (tmp_path / "run.sh").unlink()
    other = json.loads((base / "config.json").read_text()) | {"num_hidden_layers": 3}
    changed = tmp_path / "changed"
    shutil.copytree(base, changed)
    (changed / "config.json").write_text(json.dumps(other))
    assert main([*command, "--weights", str(changed)]) == 2
    verdicts = json.loads(capsys.readouterr().out)["verdicts"]
    (structure,) = [one for one in verdicts if one["verdict"] == "broken"]
    assert structure["rule"] == "llm-structure"
    assert "num_hidden_layers is 3, was 2" in structure["found"]
    assert kit.base() == base


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("if [[ $1 ]]; then :; fi", "[[ … ]]"),
        ('if [ "$1" == a ]; then :; fi', "== in [ … ]"),
        ("function go { :; }", "function NAME"),
        ("source env.sh", "source FILE"),
        ("python3 x &> log", "&> FILE"),
        ("args=(a b)", "an array"),
        ('echo "${1/a/b}"', "${NAME/…}"),
        ("set -euo pipefail", "pipefail"),
        ("echo {1..3}", "{1..9}"),
        ("if true; then", "cannot read it"),
        ("echo a\r", "CR LF"),
    ],
)
def test_what_only_bash_knows_is_told(tmp_path, text, said):
    script = tmp_path / "run.sh"
    script.write_text(f"#!/bin/sh\n{text}\n", newline="")
    assert any(said in fault for fault in faults_of(script))


def test_plain_scripts_pass(tmp_path):
    script = tmp_path / "run.sh"
    script.write_text(
        "#!/bin/sh\n# [[ in a comment ]]\necho '[[ in quotes ]]' \"${2:-/a/b}\"\n"
        'case $1 in [a-z]*) : $((1 + 2)) ;; esac\n[ "$1" = a ] || echo "${1#x}"\n'
    )
    assert faults_of(script) == []
    assert faults_of(ALONE / "run.sh") == []


# run.sh


@pytest.fixture
def unpacked(tmp_path):
    """run.sh and src/ in a folder with a blank, and a python that says what it is given."""
    folder = tmp_path / "a submission"
    (folder / "src").mkdir(parents=True)
    shutil.copyfile(ALONE / "run.sh", folder / "run.sh")
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$PWD" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "elsewhere").mkdir()
    return folder


def run_sh(folder: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """run.sh by a shell that is no bash."""
    command = [SHELL, str(folder / "run.sh"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_relative_paths_start_in_src_or_where_it_was_called(unpacked, tmp_path):
    here, src, python = tmp_path / "elsewhere", unpacked / "src", str(tmp_path / "python")
    (src / "in.tsv").write_text("")
    (unpacked / "weights").mkdir()
    done = run_sh(unpacked, "in.tsv", "../out.tsv", "../weights", python, cwd=here)
    assert done.stdout.splitlines() == [
        str(src), "predict.py", f"{src}/in.tsv", f"{src}/../out.tsv", f"{src}/../weights",
    ]  # fmt: skip
    (src / "in.tsv").unlink()
    (here / "in.tsv").write_text("")
    (here / "my weights").mkdir()
    done = run_sh(unpacked, "in.tsv", "out.tsv", "my weights", "../python", cwd=here)
    assert done.stdout.splitlines()[2:] == [f"{here}/{n}" for n in ("in.tsv", "out.tsv",
                                                                    "my weights")]  # fmt: skip
    done = run_sh(unpacked, "/a/in", "/a/out", "/a/w", python, cwd=here)
    assert done.stdout.splitlines()[2:] == ["/a/in", "/a/out", "/a/w"]


def test_python_may_be_left_out_and_words_must_be_three_or_four(unpacked, tmp_path, monkeypatch):
    (tmp_path / "python").rename(tmp_path / "python3")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    done = run_sh(unpacked, "/i", "/o", "/w", cwd=tmp_path)
    assert done.stdout.splitlines()[1:] == ["predict.py", "/i", "/o", "/w"]
    for words in ((), ("/i", "/o"), ("/i", "/o", "/w", "python3", "more")):
        done = run_sh(unpacked, *words, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("usage: sh run.sh INPUT OUTPUT WEIGHTS [PYTHON]")


def test_requirements_are_installed_only_when_asked(unpacked, tmp_path, monkeypatch):
    words = ("/i", "/o", "/w", str(tmp_path / "python"))
    assert "pip" not in run_sh(unpacked, *words, cwd=tmp_path).stdout
    monkeypatch.setenv("INSTALL", "1")
    said = run_sh(unpacked, *words, cwd=tmp_path).stdout.splitlines()
    assert said[1:6] == ["-m", "pip", "install", "-r", f"{unpacked}/requirements.txt"]
    assert said[-4:] == ["predict.py", "/i", "/o", "/w"]


def test_weights_are_a_model_folder_or_hold_one(tmp_path):
    inner = made_model(tmp_path / "weights/mgen")
    assert predict.find_weights(tmp_path / "weights") == inner
    assert predict.find_weights(inner) == inner
    made_model(tmp_path / "weights/other")
    with pytest.raises(DataError, match="found mgen, other"):
        predict.find_weights(tmp_path / "weights")
    with pytest.raises(DataError, match="no such folder"):
        predict.find_weights(tmp_path / "nowhere")


# the package


def test_packages_of_the_same_files_have_the_same_bytes(tmp_path):
    weights = made_model(tmp_path / "weights", 1 << 21)
    found = packing.members(weights, None, "all")
    one = packing.write_package(found, tmp_path / "one/submission.zip", {"official": False})
    (weights / "config.json").touch()
    two = packing.write_package(found, tmp_path / "two/submission.zip", {"official": False})
    assert one.path.read_bytes() == two.path.read_bytes()
    assert one.sha256 == two.sha256
    with zipfile.ZipFile(one.path) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
        assert archive.getinfo("weights/model_state.pdparams").compress_type == 0
        assert archive.getinfo("run.sh").external_attr >> 16 & 0o777 == 0o755
    assert names == sorted(names)
    tops = {name.split("/")[0] for name in names}
    assert tops == {"requirements.txt", "run.sh", "src", "weights"}
    assert {"weights/config.json", "src/predict.py", "src/vlforge/types.py"} <= set(names)
    assert "weights/done.json" not in names
    told = json.loads(one.manifest.read_text())
    assert (told["archive"], told["bytes"]) == ("submission.zip", one.bytes)
    assert [member["name"] for member in told["members"]] == names
    assert not list((tmp_path / "one").glob(".*"))


def test_one_half_of_a_package_is_packed_alone(tmp_path):
    weights = made_model(tmp_path / "weights")
    alone = packing.members(weights, None, "weights")
    assert {member.name.split("/")[0] for member in alone} == {"weights"}
    code = packing.members(None, None, "code")
    assert not [member for member in code if member.name.startswith("weights/")]
    with pytest.raises(DataError, match=r"no model with config\.json"):
        packing.members(tmp_path, None, "all")


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match=r"takes .* GB and .* has .* GB left"):
        packing.check_room(tmp_path / "submission.zip", 10**18)


def test_a_failed_package_leaves_the_one_before(tmp_path):
    weights = made_model(tmp_path / "weights")
    out = tmp_path / "submission.zip"
    out.write_bytes(b"before")
    found = packing.members(weights, None, "weights")
    broken = Member("weights/gone", tmp_path)
    with pytest.raises(WriteError, match="cannot write"):
        packing.write_package([*found, broken], out, {})
    assert out.read_bytes() == b"before"
    assert not list(tmp_path.glob(".submission*"))


def test_own_source_is_packed_with_its_script(tmp_path):
    source = tmp_path / "src"
    (source / "__pycache__").mkdir(parents=True)
    (source / "__pycache__/x.pyc").write_bytes(b"")
    with pytest.raises(DataError, match=r"the contest runs src/predict\.py"):
        packing.members(None, source, "code")
    (source / "predict.py").write_text("import paddle\n")
    with pytest.raises(DataError, match=r"requirements\.txt"):
        packing.members(None, source, "code")
    (tmp_path / "requirements.txt").write_text("paddlepaddle\n")
    (tmp_path / "run.sh").write_text("if [[ -f x ]]; then :; fi\n")
    with pytest.raises(DataError, match=r"is no plain sh: run.sh:1"):
        packing.members(None, source, "code")
    (tmp_path / "run.sh").write_text("exec python3 src/predict.py\n")
    found = {member.name: member.source for member in packing.members(None, source, "code")}
    assert found == {
        "requirements.txt": tmp_path / "requirements.txt",
        "run.sh": tmp_path / "run.sh",
        "src/predict.py": source / "predict.py",
    }


def test_requirements_name_what_is_installed():
    import torch

    lines = packing.requirements().splitlines()
    assert f"torch=={torch.__version__.partition('+')[0]}" in lines
    assert {row.partition("==")[0] for row in lines[1:]} == set(packing.NEEDED)


def test_init_text_is_json():
    assert all(json.loads(text)["max_length"] == 2048 for text in TEXTS.values())
