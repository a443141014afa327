"""Launch scripts are read as text: words, variables, launchers, arguments."""

from pathlib import Path

import pytest

from vlforge.recipe.adopt.mgm_arguments import ARGUMENTS, read_arguments
from vlforge.recipe.adopt.shell_launch import started
from vlforge.recipe.adopt.shell_words import Word, read_script
from vlforge.types import RecipeError


def commands(text: str, **changes: str) -> list[list[str]]:
    """The words of each command; what is not known is ?."""
    script = read_script(text, Path("kit/run.sh"), changes, environment={"HOME": "/h"})
    return [["?" if word.unknown else word.text for word in one.words] for one in script.commands]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a 'b c' \"d e\" f\\ g # no", ["a", "b c", "d e", "f g"]),
        ("a \\\n  b \\\r\n c", ["a", "b", "c"]),
        ("X=1\nexport Y=${X}2 Z='$X'\na $Y \"$Z\" ${Q:-q$X} $HOME", ["a", "12", "$X", "q1", "/h"]),
        ("E='--b True'\na $E \"$E\"", ["a", "--b", "True", "--b True"]),
        ("A=(x 'y z')\nA+=(\"w\")\na \"${A[@]}\"", ["a", "x", "y z", "w"]),
        ("P=a\nP+=b\nx $P", ["x", "ab"]),
        ("D=$(cd \"$(dirname \"$0\")\" && pwd)\na $D/b", ["a", "kit/b"]),
        ("D=`dirname $0`/..\na $D", ["a", "kit/.."]),
        ("D=$(dirname \"$(readlink -f \"$0\")\")\na $D", ["a", "kit"]),
        ("D=$( cd -- \"$( dirname -- \"${BASH_SOURCE[0]}\" )\" && pwd )\na $D", ["a", "kit"]),
        ("a b 2>&1 | tee log", ["a", "b"]),
        ("a b > out 2>err &", ["a", "b"]),
        ("a --n 2 >out", ["a", "--n", "2"]),
        ("N=$(nproc)\na $N", ["?"]),
        ("cat <<END\na b\nEND\nx", ["x"]),
        ("if true; then\n  a b\nfi", ["a", "b"]),
        ("a --x '' --y", ["a", "--x", "", "--y"]),
        ("A=1 B=2 a $C", ["a", "?"]),
        ("a '<__dj__image>' \"<a>\"", ["a", "<__dj__image>", "<a>"]),
        ("a ./b#c", ["a", "./b#c"]),
        ("a \\\n\N{NO-BREAK SPACE} \N{NO-BREAK SPACE}--b 1", ["a", "--b", "1"]),
    ],
)  # fmt: skip
def test_a_shell_would_read_the_same_words(text, words):
    found = commands(text)
    assert any(one == words or one[1:] == words for one in found), found


def test_changes_come_before_what_the_script_says():
    assert commands("X=1\na $X $1", X="2", **{"1": "first"}) == [["a", "2", "first"]]
    script = read_script("cd sub\na\ncd ..\nb", Path("r.sh"))
    assert [one.folder for one in script.commands] == ["sub", "sub/.."]
    with_line = read_script("X=1\n\na \\\n  $X", Path("r.sh")).commands[0].words[1]
    assert (with_line.line, with_line.names) == (4, (("X", 1),))


@pytest.mark.parametrize(
    ("line", "program", "count"),
    [
        ("deepspeed a/train.py --x 1", "a/train.py", None),
        ("deepspeed --num_gpus 4 a/train.py --x 1", "a/train.py", 4),
        ("deepspeed --num_nodes=2 --num_gpus=8 --master_port 1 a/train.py", "a/train.py", 16),
        ("deepspeed --include localhost:0,2@b:1 a/train.py", "a/train.py", 3),
        ("CUDA_VISIBLE_DEVICES=0,1,2 deepspeed a/train.py", "a/train.py", 3),
        ("torchrun --standalone --nnodes 2 --nproc-per-node=4 a/train.py", "a/train.py", 8),
        ("python -m torch.distributed.run --nproc_per_node 2 a/train.py", "a/train.py", 2),
        ("accelerate launch --num_processes 6 a/train.py", "a/train.py", 6),
        ("srun python -u a/train.py --x 1", "a/train.py", None),
        ("python3 -m llava.train.train_mem --x 1", "llava.train.train_mem", None),
    ],
)  # fmt: skip
def test_launchers_say_how_many(line, program, count):
    found = started(read_script(line, Path("r.sh")).commands[0])
    assert (found.program.text, found.processes) == (program, count)


def given(text: str, system: str = "mgm") -> dict:
    """Arguments that somebody wrote."""
    words = [Word(word, 1) for word in text.split()]
    found = read_arguments(words, system, "r.sh")
    return {name: one.value for name, one in found.items() if one.is_given}


def test_arguments_are_paired_as_argparse_does():
    assert given("--bf16 --learning-rate=1e-3 --no_drop_path --mm_vision_select_layer -2") == {
        "bf16": True, "learning_rate": 1e-3, "drop_path": False, "mm_vision_select_layer": -2,
    }  # fmt: skip
    assert given("--report_to wandb tensorboard --lora_en True --lora_en no") == {
        "report_to": "wandb tensorboard", "lora_enable": False,
    }  # fmt: skip
    defaults = read_arguments([], "mgm", "r.sh")
    assert defaults["image_size_aux"] == (320, "", False)
    assert (defaults["model_max_length"].value, defaults["version"].value) == (512, "v0")
    assert "image_size_aux" not in read_arguments([], "llava", "r.sh")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--lora 1", "--lora is no argument of train.py; it could be lora_"),
        ("--max_steps 1.5", "--max_steps is '1.5': take a whole number"),
        ("--version", "--version has no value"),
        ("v1", "'v1' belongs to no --argument"),
        ("--quant_type fp4", "'fp4' is not possible here: 4 bits are nf4"),
        ("--mm_patch_merge_type flat", "is LLaVA's argument alone"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_told(text, said):
    with pytest.raises(RecipeError, match=r"r\.sh:1") as told:
        given(text)
    assert said in str(told.value)


def test_every_argument_has_one_fate_and_says_why():
    names = [one.name for one in ARGUMENTS]
    assert len(names) == len(set(names)) > 150
    assert all(one.remark for one in ARGUMENTS)
    assert {one.fate for one in ARGUMENTS} == {"used", "no effect", "refused"}
