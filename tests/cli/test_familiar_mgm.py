"""Command lines of Better Synth, Mini-Gemini and LLaVA: what each becomes, and that it runs."""

import json
import random
import shlex
from pathlib import Path

import pytest
import torch
from openpyxl import load_workbook

from tests.checkpoints import tiny_llava
from tests.checkpoints.test_peft import adapted, language
from tests.recipe import launch_scripts as scripts
from vlforge.checkpoints.checkpoint import Writing
from vlforge.checkpoints.conversion import write
from vlforge.checkpoints.index import find
from vlforge.cli.familiar.every import translate
from vlforge.cli.familiar.old import take_apart
from vlforge.cli.start import main
from vlforge.types import RecipeError


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vlforge.cli.familiar.asking.visible_gpus", lambda: [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def ours(line: str) -> list[str]:
    """Our commands in an old line's place, each as it would be typed."""
    return [shlex.join(command) for command in translate(take_apart(shlex.split(line))).commands]


def run(line: str) -> int:
    """`vlforge compat` of an old line."""
    return main(["compat", *shlex.split(line)])


def rows(path: str, *found: dict) -> Path:
    """JSON lines."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in found))
    return Path(path)


def lines(path: str) -> list:
    """The values of JSON lines."""
    return [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("python -m mgm.serve.cli --model-path M --image-file a.jpg,b.jpg --load-8bit",
         ["chat M --image a.jpg --image b.jpg --temperature 0.2 --max-new-tokens 512 "
          "--quantise 8bit"]),
        ("python -m llava.serve.cli --model-path L --model-base B --image-file a.jpg "
         "--conv-mode vicuna_v1 --temperature 0",
         ["merge B L L-merged", "chat L-merged --image a.jpg --template vicuna_v1 --temperature 0 "
                                "--max-new-tokens 512"]),
        ("python llava/eval/run_llava.py --model-path M --image-file a.jpg --query 'What is it?' "
         "--num_beams 5",
         ["chat M --image a.jpg --question 'What is it?' --temperature 0.2 --num-beams 5 "
          "--max-new-tokens 512"]),
        ("python -m mgm.serve.model_worker --host 0.0.0.0 --controller http://localhost:10000 "
         "--port 40000 --worker http://localhost:40000 --model-path M --load-4bit",
         ["web M --host 0.0.0.0 --quantise 4bit"]),
        ("python -m mgm.serve.controller --host 0.0.0.0 --port 10000", []),
        ("CUDA_VISIBLE_DEVICES=0 python -m mgm.eval.model_vqa_mmbench --model-path M "
         "--question-file d/mmbench_dev_20230712.tsv --answers-file a/M.jsonl --single-pred-prompt "
         "--temperature 0 --conv-mode mistral_instruct",
         ["eval run M --benchmark mmbench --questions d/mmbench_dev_20230712.tsv --template "
          "mgm_mistral_instruct --prompt mgm --max-new-tokens 1024 --out a/M",
          "eval export a/M mmbench a/M.jsonl --as llava"]),
        ("python -m llava.eval.model_vqa_loader --model-path M --question-file MME/llava_mme.jsonl "
         "--image-folder MME/release --answers-file a.jsonl --temperature 0 --conv-mode vicuna_v1",
         ["eval run M --benchmark mme --questions MME/llava_mme.jsonl --images MME/release "
          "--annotation MME/release --template vicuna_v1 --max-new-tokens 128 --out a",
          "eval export a mme a.jsonl --as llava"]),
        ("python mgm/eval/MMMU/eval/run_llava.py --data_path MMMU --config_path c.yaml "
         "--model_path M --answers-file a.jsonl --split validation --conv-mode gemma",
         ["eval run M --benchmark mmmu --questions MMMU --template gemma --prompt mgm "
          "--max-new-tokens 128 --out a", "eval export a mmmu a.jsonl --as llava"]),
        ("python llava/eval/eval_pope.py --annotation-dir coco --question-file q.jsonl "
         "--result-file a.jsonl",
         ["eval score --benchmark pope --answers a.jsonl --annotations coco --questions q.jsonl "
          "--protocol llava"]),
        ("python scripts/convert_vqav2_for_submission.py --split S --ckpt C --dir d",
         ["eval export d/answers/S/C/merge.jsonl vqav2 d/answers_upload/S/C.json --questions "
          "d/llava_vqav2_mscoco_test2015.jsonl --as upload"]),
        ("python scripts/merge_lora_weights.py --model-path L --model-base B --save-model-path O",
         ["merge B L O"]),
    ],
)  # fmt: skip
def test_each_command_has_ours(old, new):
    assert ours(old) == new


@pytest.mark.parametrize(
    ("old", "said"),
    [
        ("python -m mgm.serve.cli --image-file a.jpg", "needs --model-path"),
        ("python -m mgm.serve.cli --model-path M --gen", "--gen: pictures are not painted"),
        ("python -m mgm.eval.model_vqa_loader --model-path M --question-file odd.jsonl",
         "odd.jsonl: no benchmark that is known"),
        ("python -m mgm.eval.model_vqa_mmbench --model-path M --question-file q.tsv --all-rounds",
         "--all-rounds true is not possible"),
        ("bash toolkit/train_mgm_2b_stage_1.sh", "no such file; call it from the kit's folder"),
        ("bash toolkit/eval/mmbench.sh EXP", "it is called as mmbench.sh EXP SPLIT GPU"),
        ("bash scripts/gemma/eval/textvqa.sh", "no such file"),
        ("deepspeed mgm/train/train_mem.py --version gemma", "needs --output_dir"),
        ("deepspeed mgm/train/train_mem.py --output_dir o --verson v1", "did you mean 'version'"),
        ("python scripts/extract_mm_projector.py --model-path nowhere --output p.bin",
         "nowhere: holds no config.json"),
    ],
)  # fmt: skip
def test_what_is_missing_is_told_in_a_line(old, said, capsys):
    assert run(old) == 2
    shown = capsys.readouterr().err.strip()
    assert said in shown
    assert shown.startswith("error: ")
    assert "\n" not in shown


@pytest.mark.parametrize(
    ("gpus", "words", "answer"),
    [("", "4 64 256", "True"), ("", "4 32 256", "False"), ("0,1", "4 32 256", "True"),
     ("0,1", "4 64 256", "False")],
)  # fmt: skip
def test_the_global_batch_is_checked_as_in_the_kit(gpus, words, answer, monkeypatch, capsys):
    found = [one for one in gpus.split(",") if one]
    monkeypatch.setattr("vlforge.data.kit_tools.visible_gpus", lambda: found)
    assert run(f"python toolkit/training/preprocess/check_global_batch_size.py {words}") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"$ vlforge tool check_global_batch_size {words}", answer]


def test_the_kits_rows_are_drawn_in_its_order():
    data = [{"id": str(number), "text": "x" * number} for number in range(50)]
    rows("in.jsonl", *data)
    text = Path("in.jsonl").read_text()
    Path("in.jsonl").write_text(text.replace("\n", "\n\n", 3).rstrip("\n"))
    random.seed(1024)
    drawn = random.sample(data, 20)
    line = "python toolkit/training/preprocess/check_sample_number.py in.jsonl sub/out.jsonl"
    assert run(f"{line} 20") == 0
    assert lines("sub/out.jsonl") == drawn
    assert run(f"{line} 50") == 0
    assert lines("sub/out.jsonl") == data
    assert run(f"{line} 0") == 2
    assert run("python check_sample_number.py in.jsonl in.jsonl 5") == 2
    assert lines("in.jsonl") == data


def test_the_kits_conversion_restores_questions():
    text = "<__dj__image> a red door\n <|__dj__eoc|>"
    rows("cut.jsonl", {"id": "1", "text": text, "images": ["images/1.jpg"]})
    turns = [{"from": "human", "value": "What is this?\n<image>"}, {"from": "gpt", "value": "old"}]
    Path("stage_1.json").write_text(
        json.dumps([{"id": "1", "image": "images/1.jpg", "conversations": turns}])
    )
    tool = "data-juicer/tools/multimodal/data_juicer_format_to_target_format/dj_to_llava.py"
    line = f"python toolkit/{tool} cut.jsonl cut.jsonl.json --image_special_token '<__dj__image>'"
    assert run(f"{line} --restore_questions True --original_llava_ds_path stage_1.json") == 0
    (made,) = json.loads(Path("cut.jsonl.json").read_text())
    assert made["conversations"] == [turns[0], {"from": "gpt", "value": "a red door"}]
    assert made["image"] == "images/1.jpg"


def test_answer_files_are_converted():
    rows("a.jsonl", {"question_id": 7, "text": "A Dog."}, {"question_id": "x", "text": "no"})
    assert run("python scripts/convert_gqa_for_eval.py --src a.jsonl --dst p.json") == 0
    assert json.loads(Path("p.json").read_text()) == [
        {"questionId": 7, "prediction": "a dog"}, {"questionId": "x", "prediction": "no"},
    ]  # fmt: skip
    assert run("python scripts/convert_mmvet_for_eval.py --src a.jsonl --dst v.json") == 0
    assert json.loads(Path("v.json").read_text()) == {"v1_7": "A Dog.", "v1_x": "no"}
    rows("bad.jsonl", {"text": "no id"})
    assert run("python scripts/convert_gqa_for_eval.py --src bad.jsonl --dst q.json") == 2
    assert not Path("q.json").exists()


def test_mmbench_and_seed_are_converted(capsys):
    head = "index\tquestion\thint\tA\tB\tanswer\tcategory\timage\tsource\tcomment\tl2-category\n"
    line = "{}\twhat?\t\tcat\tdog\tA\tkind\t\ts\t\tl2\n"
    Path("dev.tsv").write_text(head + line.format(1) + line.format(1000001))
    rows("r/E.jsonl", {"question_id": 1, "text": "A"}, {"question_id": 1000001, "text": "B"})
    script = "python scripts/convert_mmbench_for_submission.py"
    assert (
        run(f"{script} --annotation-file dev.tsv --result-dir r --upload-dir u --experiment E") == 0
    )
    sheet = list(load_workbook("u/E.xlsx").active.iter_rows(values_only=True))
    at = sheet[0].index("prediction")
    assert [row[at] for row in sheet[1:]] == ["A", "B"]
    question = {"question_type_id": 1, "data_type": "image", "question": "?", "data_id": "a",
                "choice_a": "x", "choice_b": "y", "choice_c": "z", "choice_d": "w"}  # fmt: skip
    annotation = {
        "question_type": {"Scene": 1},
        "questions": [{**question, "question_id": "1", "answer": "A"},
                      {**question, "question_id": "2", "answer": "B"}],
    }  # fmt: skip
    Path("seed.json").write_text(json.dumps(annotation))
    rows("s.jsonl", {"question_id": 1, "text": "A"}, {"question_id": 2, "text": "A"})
    script = "python scripts/convert_seed_for_submission.py"
    capsys.readouterr()
    assert run(
        f"{script} --annotation-file seed.json --result-file s.jsonl --result-upload-file u/s.jsonl"
    ) == 0  # fmt: skip
    assert "50.0 %" in capsys.readouterr().out
    uploaded = lines("u/s.jsonl")
    assert uploaded == [
        {"question_id": "1", "prediction": "A"}, {"question_id": "2", "prediction": "A"},
    ]  # fmt: skip


def test_textvqas_answers_are_scored_without_a_question_file(capsys):
    asks = [("p1", "what is written?", "stop"), ("p1", "which brand?", "acme")]
    tail = "\nReference OCR token: STOP, ACME\nAnswer the question using a single word or phrase."
    rows("a.jsonl", *({"question_id": picture, "prompt": question + tail, "text": text}
                      for picture, question, text in asks))  # fmt: skip
    data = [
        {"question_id": number, "image_id": picture, "question": question.capitalize(),
         "answers": [text] * 10}
        for number, (picture, question, text) in enumerate(asks)
    ]  # fmt: skip
    Path("TextVQA_0.5.1_val.json").write_text(json.dumps({"data": data}))
    line = "python -m mgm.eval.eval_textvqa --annotation-file TextVQA_0.5.1_val.json"
    assert run(f"{line} --result-file a.jsonl") == 0
    assert "100.0 %" in capsys.readouterr().out


def test_a_connector_is_taken_out_of_a_model_as_a_file():
    made = tiny_llava.model()
    write(tiny_llava.checkpoint(Path("ours"), made), Path("M"), find("llava"), Writing())
    assert (
        run("python scripts/extract_mm_projector.py --model-path M --output out/mm_projector.bin")
        == 0
    )
    found = torch.load("out/mm_projector.bin", weights_only=True)
    wanted = made.connector.state_dict()
    assert len(found) == len(wanted)
    assert all(name.startswith("model.mm_projector.") for name in found)
    assert torch.equal(found["model.mm_projector.0.weight"], next(iter(wanted.values())))
    assert [one.name for one in Path("out").iterdir()] == ["mm_projector.bin"]


def test_lora_is_merged_under_the_scripts_own_words(tmp_path):
    adapted(language(tmp_path / "base"), tmp_path / "adapter")
    line = "python scripts/merge_lora_weights.py --model-path adapter --model-base base"
    assert run(f"{line} --save-model-path out") == 0
    assert Path("out/config.json").is_file()


def test_train_scripts_and_argument_lists_become_recipes():
    scripts.write(Path("scripts/v1_5/finetune.sh"), scripts.llava("finetune"))
    assert ours("bash scripts/v1_5/finetune.sh") == ["run scripts/v1_5/finetune.sh"]
    scripts.write(Path("scripts/gemma/train/mine.sh"), scripts.llava("pretrain"))
    assert ours("sh scripts/gemma/train/mine.sh") == ["run scripts/gemma/train/mine.sh"]
    scripts.write(Path("my_run.sh"), scripts.llava("pretrain"))
    assert ours("bash my_run.sh") == ["run my_run.sh"]
    scripts.write(Path("toolkit/train_mgm_2b_stage_1.sh"), scripts.better_synth())
    assert ours("bash toolkit/train_mgm_2b_stage_1.sh") == ["run toolkit/train_mgm_2b_stage_1.sh"]
    Path("done/P/01-align").mkdir(parents=True)
    for name in ("graph.json", "01-align/config.json", "01-align/mm_projector.bin"):
        Path("done/P", name).touch()
    first, second = ours(
        "deepspeed --include localhost:0,1 llava/train/train_mem.py --bf16 "
        "--model_name_or_path llm --data_path d.json --vision_tower clip --output_dir ./done/F "
        "--lora-enable True "
        "--pretrain_mm_mlp_adapter ./done/P/mm_projector.bin --learning_rate=2e-4"
    )
    assert first == (
        "adopt llava/train/train_mem.py bf16=True model_name_or_path=llm data_path=d.json "
        "vision_tower=clip output_dir=./done/F lora_enable=True "
        "pretrain_mm_mlp_adapter=./done/P/mm_projector.bin learning_rate=2e-4 num_gpus=2 "
        "-o runs/F.yaml"
    )
    assert second == "train runs/F.yaml --out done/F --processes 2"
    assert main(shlex.split(first)) == 0
    text = Path("runs/F.yaml").read_text()
    assert "batch: 16 " in text
    assert "8 x 1 x 2 GPUs (num_gpus=2)" in text
    assert "connector_weights: done/P/01-align/mm_projector.bin" in text


def test_what_a_script_left_is_found_under_its_output_folder():
    scripts.write(Path("pretrain.sh"), scripts.llava("pretrain") + scripts.llava("finetune"))
    assert main(["adopt", "pretrain.sh", "-o", "runs/pretrain/as_given.yaml"]) == 0
    for name in ("01-align/config.json", "01-align/mm_projector.bin", "02-instruct/adapted.json"):
        Path("runs/pretrain", name).parent.mkdir(exist_ok=True)
        Path("runs/pretrain", name).touch()
    scripts.write(Path("finetune.sh"), scripts.llava("finetune"))
    assert main(["adopt", "finetune.sh", "-o", "r.yaml"]) == 0
    recipe = Path("r.yaml").read_text()
    assert "connector_weights: runs/pretrain/01-align/mm_projector.bin" in recipe
    (found,) = ours("python -m llava.serve.cli --model-path ./checkpoints/llava-v1.5-13b")
    assert found.startswith("chat runs/pretrain/02-instruct ")


def test_evaluation_scripts_are_read_command_by_command():
    scripts.write(Path("scripts/gemma/eval/textvqa.sh"), _CHUNKED)
    assert ours("bash scripts/gemma/eval/textvqa.sh") == [
        "eval run ./work_dirs/MGM/MGM-2B --benchmark textvqa --questions data/textvqa/q.jsonl "
        "--images data/textvqa/train_images --template gemma --max-new-tokens 128 --out "
        "./work_dirs/answers/merge",
        "eval export ./work_dirs/answers/merge textvqa ./work_dirs/answers/merge.jsonl --as llava",
        "eval score --benchmark textvqa --answers ./work_dirs/answers/merge.jsonl --annotations "
        "data/textvqa/val.json",
    ]


_CHUNKED = """\
#!/bin/bash
gpu_list="${CUDA_VISIBLE_DEVICES:-0}"
IFS=',' read -ra GPULIST <<< "$gpu_list"
CHUNKS=${#GPULIST[@]}
CKPT="MGM/MGM-2B"
for IDX in $(seq 0 $((CHUNKS-1))); do
    CUDA_VISIBLE_DEVICES=${GPULIST[$IDX]} python -m mgm.eval.model_vqa_loader \\
        --model-path ./work_dirs/$CKPT \\
        --question-file data/textvqa/q.jsonl \\
        --image-folder data/textvqa/train_images \\
        --answers-file ./work_dirs/answers/${CHUNKS}_${IDX}.jsonl \\
        --num-chunks $CHUNKS \\
        --chunk-idx $IDX \\
        --temperature 0 \\
        --conv-mode gemma &
done
wait
output_file=./work_dirs/answers/merge.jsonl
> "$output_file"
for IDX in $(seq 0 $((CHUNKS-1))); do
    cat ./work_dirs/answers/${CHUNKS}_${IDX}.jsonl >> "$output_file"
done
python -m mgm.eval.eval_textvqa \\
    --annotation-file data/textvqa/val.json \\
    --result-file $output_file
"""


def test_an_evaluation_in_another_folder_keeps_its_files():
    scripts.write(Path("scripts/llama/eval/odd.sh"), "echo nothing\n")
    with pytest.raises(RecipeError, match="no evaluation that is known"):
        ours("bash scripts/llama/eval/odd.sh")
    text = "cd tools\npython -m llava.eval.eval_pope --annotation-dir ../coco --question-file q " \
           "--result-file a.jsonl\n"  # fmt: skip
    scripts.write(Path("scripts/v1_5/eval/pope.sh"), text)
    assert ours("bash scripts/v1_5/eval/pope.sh") == [
        "eval score --benchmark pope --answers tools/a.jsonl --annotations coco "
        "--questions tools/q --protocol llava"
    ]
