"""Models at work: the same bytes whatever the processes, pictures ahead, nothing asked twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.engine.made import config, contents, lines, write_picture, write_rows
from tests.engine.model_ops import NotingModels
from tests.engine.test_workers import not_running
from vlforge.data.images import ImageFile
from vlforge.engine import answers, outputs, plan
from vlforge.engine.ahead import AheadFiles, Decoder
from vlforge.engine.local import run_process
from vlforge.engine.model_crew import placed, wanted_workers
from vlforge.engine.plan import make_plan, operators_of
from vlforge.inference.local import LocalModels
from vlforge.ops.batch import Batch, Context, Item
from vlforge.types import Caption, EndpointSpec, Refusal, VLForgeError

OPS = "tests.engine.model_ops:"
BRIGHT, REWRITE = f"{OPS}BrightnessFilter", f"{OPS}RewriteMapper"
CAPTION = {"image_captioning_mapper": {"hf_img2seq": "eye", "caption_num": 2}}
SELECT = {"topk_specified_field_selector": {"field_key": "score", "top_ratio": 0.7}}
SEMANTIC = {"semantic_deduplicator": {"by": "texts", "n_clusters": 1, "eps": 0.001}}
RECIPES = {
    "judge, then write": ({"text_length_filter": {"min_len": 12}}, BRIGHT, CAPTION),
    "dedup between models": (BRIGHT, "document_deduplicator", REWRITE, "document_deduplicator",
                             {"text_length_filter": {"min_len": 3}}),
    "embeddings decide at the end": ("document_deduplicator", BRIGHT, SEMANTIC, REWRITE),
    "dedup before and selector between": ("document_deduplicator", REWRITE, SELECT, CAPTION),
}  # fmt: skip


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of ten rows, each committed, and answers put down by threes."""
    for name in ("TEXT_BLOCK", "PIXEL_BLOCK", "WRITING_BLOCK"):
        monkeypatch.setattr(plan, name, 10)
    monkeypatch.setattr(outputs, "COMMIT_EVERY_S", 0.0)
    monkeypatch.setattr(answers, "PORTION", 3)


def made_rows(folder: Path, count: int) -> Path:
    """Rows with pictures, some of them damaged or gone, some texts short or repeated."""
    for number in range(5):
        write_picture(folder / f"{number}.png", (24 + number, 20), number)
    rows = []
    for n in range(count):
        text = "short" if n % 7 == 3 else f"row {n % 31} of <__dj__image> near house {n % 31}"
        rows.append({"id": f"r{n}", "text": text, "images": [f"{n % 5}.png"], "score": n % 17})
    return write_rows(folder / "a.jsonl", rows)


def models(folder: Path, **how) -> NotingModels:
    return NotingModels(str(folder / "asked"), **how)


@pytest.mark.parametrize("name", RECIPES)
def test_processes_with_models_do_not_change_a_byte(tmp_path, name, small_blocks):
    recipe = config(made_rows(tmp_path, 95), *RECIPES[name])
    run_process(recipe, tmp_path / "home", models=models(tmp_path), workers=1)
    there = NotingModels(str(tmp_path / "there"))
    run_process(replace(recipe, model_workers=2), tmp_path / "two", models=there, workers=1)
    assert contents(tmp_path / "two") == contents(tmp_path / "home")
    assert len(there.processes()) == 2
    assert os.getpid() not in there.processes()
    assert not list((tmp_path / "two").glob(".*"))


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_answered_before_a_failure_is_not_asked_again(tmp_path, workers, small_blocks):
    recipe = config(made_rows(tmp_path, 60), REWRITE, CAPTION)
    run_process(recipe, tmp_path / "whole", models=models(tmp_path), workers=1)
    whole = {kind: sorted(models(tmp_path).asked(kind)) for kind in ("write", "caption")}
    tired = NotingModels(str(tmp_path / "again"), fails_at=30)
    recipe = replace(recipe, model_workers=workers)
    with pytest.raises(VLForgeError, match="had enough"):
        run_process(recipe, tmp_path / "out", models=tired, workers=1)
    before = len(tired.asked(""))
    run_process(replace(recipe, model_workers=0), tmp_path / "out", models=tired, workers=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert before < sum(map(len, whole.values()))
    for kind, questions in whole.items():
        # What was on its way when it failed is asked again: of a block of ten, by threes at home.
        again = len(tired.asked(kind)) - len(questions)
        assert set(tired.asked(kind)) == set(questions)
        assert again <= (10 * workers or 3)
    assert not list((tmp_path / "out").glob(".*"))


def test_a_killed_process_with_models_is_one_line_and_the_run_goes_on(tmp_path, small_blocks):
    recipe = config(made_rows(tmp_path, 60), REWRITE, model_workers=2)
    run_process(replace(recipe, model_workers=0), tmp_path / "whole", models=models(tmp_path))
    fragile = NotingModels(str(tmp_path / "again"), dies_at=25)
    with pytest.raises(VLForgeError, match=r"killed.*memory.*model_workers") as raised:
        run_process(recipe, tmp_path / "out", models=fragile, workers=1)
    assert "\n" not in str(raised.value)
    run_process(recipe, tmp_path / "out", models=fragile, workers=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


KILLED = """
import sys
from pathlib import Path
from tests.engine.made import config
from tests.engine.model_ops import NotingModels
from tests.engine.test_model_workers import CAPTION, REWRITE
from vlforge.engine.ahead import AheadFiles, Decoder
from vlforge.engine.local import run_process
path, out, notes, workers = sys.argv[1:]
models = NotingModels(notes, gate=notes + ".gate")
run_process(config(Path(path), REWRITE, CAPTION, model_workers=int(workers)), Path(out),
            models=models, workers=2)
"""


def ended_at_a_caption(path: Path, workers: int, number: int) -> tuple[list[str], str]:
    """Begin a run, and end it by a signal to all of it while it waits for captions.

    They are not answered until `notes.gate` is there: the run cannot be over before the signal
    comes, however late that is. Gives the command, and what was said.
    """
    notes = path.parent / "notes"
    words = [str(path), str(path.parent / "out"), str(notes), str(workers)]
    command = [sys.executable, "-c", KILLED, *words]
    run = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        while not NotingModels(str(notes)).asked("caption"):
            assert run.poll() is None, run.communicate()[1]
            time.sleep(0.005)
        (os.killpg if number == signal.SIGINT else os.kill)(run.pid, number)
        _, said = run.communicate(timeout=120)
    finally:
        run.kill()
    assert not_running(run.pid)
    Path(f"{notes}.gate").touch()
    return command, said


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_killed_in_the_middle_of_a_block_asks_only_for_the_rest(tmp_path, workers):
    path = made_rows(tmp_path, 150)
    run_process(config(path, REWRITE, CAPTION), tmp_path / "whole", models=models(tmp_path))
    whole = sorted(models(tmp_path).asked(""))
    notes = NotingModels(str(tmp_path / "notes"))
    command, _ = ended_at_a_caption(path, workers, signal.SIGKILL)
    assert not (tmp_path / "out" / "data.jsonl").exists()
    before = len(notes.asked(""))
    subprocess.run(command, check=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert 0 < before < len(whole)
    assert set(notes.asked("")) == set(whole)
    # At most what each process was asking for when it was killed.
    assert len(notes.asked("")) - len(whole) <= answers.PORTION * max(1, workers)


def test_answers_cut_off_by_a_kill_and_those_of_other_work_are_forgotten(tmp_path):
    log = answers.AnswerLog(tmp_path / "b-0")
    log.add({b"1" * 16: [["a", float("-inf")]], b"2" * 16: ["no", ""]})
    log.add({b"3" * 16: [["half \ud800", 0.0]]})
    log.close()
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + whole[:-3])
    again = answers.AnswerLog(log.path)
    assert again.get(b"1" * 16) == [["a", float("-inf")]]
    assert again.get(b"2" * 16) == ["no", ""]
    assert again.get(b"3" * 16) is None
    assert len(log.path.read_bytes()) < 2 * len(whole)
    ours, theirs = (answers.AnswerFolder(tmp_path, key * 16) for key in "ab")
    for folder in (ours, theirs):
        folder.path.mkdir()
    ours.clear_others()
    assert ours.path.exists()
    assert not theirs.path.exists()


def test_the_next_blocks_pictures_are_decoded_while_the_model_is_busy(
    tmp_path, small_blocks, monkeypatch
):
    for number in range(30):
        write_picture(tmp_path / f"{number}.png", (24, 20), number)
    rows = [{"text": f"row {n}", "images": [f"{n}.png"]} for n in range(30)]
    opened = [threading.Event() for _ in rows]
    picture = ImageFile.picture

    def told(self, **how):
        opened[int(Path(self.path).stem)].set()
        return picture(self, **how)

    monkeypatch.setattr(ImageFile, "picture", told)

    def wait_for(before: int) -> None:
        # The second block's answer waits until the third block's last picture is there.
        if before == 10:
            assert opened[29].wait(120), "nothing is decoded ahead"

    noting = models(tmp_path, wait_for=wait_for)
    recipe = config(write_rows(tmp_path / "a.jsonl", rows), BRIGHT)
    run_process(recipe, tmp_path / "out", models=noting, workers=1)
    assert len(noting.asked("score")) == 30


def test_rows_are_read_while_the_model_is_busy(tmp_path, small_blocks):
    """The head's workers go on: the model's first answer waits until they have done more."""
    path = made_rows(tmp_path, 60)
    reads = tmp_path / "reads"
    script = f"""
import time
from pathlib import Path
from tests.engine.made import config
from tests.engine.model_ops import NotingModels
from vlforge.engine import fates, plan
from vlforge.engine.ahead import AheadFiles, Decoder
from vlforge.engine.local import run_process
plan.TEXT_BLOCK = plan.PIXEL_BLOCK = plan.WRITING_BLOCK = 10
head = fates.Head.__call__
def noted(self, job):
    with open({str(reads)!r}, "a") as file:
        file.write("x")
    return head(self, job)
fates.Head.__call__ = noted
def wait_for(before):
    until = time.monotonic() + 120
    while before == 0 and len(Path({str(reads)!r}).read_text()) < 4:
        assert time.monotonic() < until, "the workers wait for the model"
        time.sleep(0.01)
models = NotingModels({str(tmp_path / "asked")!r}, wait_for=wait_for)
run_process(config(Path({str(path)!r}), {BRIGHT!r}), Path({str(tmp_path / "out")!r}),
            models=models, workers=2)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_one_process_unless_there_are_several_gpus_or_more_are_asked_for(tmp_path, monkeypatch):
    from vlforge.engine import model_crew

    def wanted(gpus: int, *ops, device: str = "auto", **keys) -> int:
        monkeypatch.setattr(model_crew, "visible_gpus", lambda: [str(n) for n in range(gpus)])
        recipe = config(tmp_path / "a.jsonl", *ops, **keys)
        found = make_plan(operators_of(recipe))
        return wanted_workers(recipe, found, LocalModels(device=device))

    assert [wanted(gpus, BRIGHT) for gpus in (0, 1, 4)] == [0, 0, 4]
    assert wanted(4, BRIGHT, device="cpu") == 0
    assert wanted(4, BRIGHT, device="cpu", model_workers=3) == 3
    assert wanted(4, "text_length_filter", model_workers=3) == 0
    server = {"pen": EndpointSpec("m")}
    assert wanted(4, REWRITE, endpoints=server) == 0
    assert wanted(4, REWRITE, BRIGHT, endpoints=server) == 4


def test_workers_share_threads_and_what_an_endpoint_allows():
    spec = EndpointSpec("m", concurrency=9, requests_per_minute=60.0, max_cost=4.0)
    share = placed(LocalModels(threads=8, endpoints={"pen": spec}), 4)
    assert share.threads == 2
    pen = share.endpoints["pen"]
    assert (pen.concurrency, pen.requests_per_minute, pen.max_cost) == (2, 15.0, 4.0)


def test_what_changes_no_output_does_not_begin_a_run_anew(tmp_path, small_blocks):
    path = made_rows(tmp_path, 30)
    spec = EndpointSpec("m", "http://localhost:1/v1")
    begun = config(path, REWRITE, endpoints={"far": spec}, replies="a", np=1)
    same = replace(spec, concurrency=2, retries=1, price_in=3.0, max_cost=1.0, timeout_s=1.0)
    changes = {
        "same": {"endpoints": {"far": same}, "replies": "b", "model_workers": 2, "np": 2},
        "other model": {"endpoints": {"far": replace(spec, model="n")}},
        "other url": {"endpoints": {"far": replace(spec, url="http://localhost:2/v1")}},
    }
    resumed = {}
    for name, change in changes.items():
        tired = NotingModels(str(tmp_path / name), fails_at=25)
        with pytest.raises(VLForgeError):
            run_process(begun, tmp_path / "out", models=tired, workers=1)
        events: list = []
        run_process(replace(begun, **change), tmp_path / "out", models=tired, log=events.append)
        resumed[name] = "resumed" in [event["event"] for event in events]
    assert resumed == {"same": True, "other model": False, "other url": False}


def test_blocks_are_small_where_a_model_writes_and_that_depends_on_the_recipe_alone(tmp_path):
    def rows(*ops, **keys):
        return make_plan(operators_of(config(tmp_path / "a", *ops, **keys))).block_rows

    assert rows(BRIGHT) == plan.PIXEL_BLOCK
    assert rows(BRIGHT, REWRITE) == rows(REWRITE, model_workers=4) == plan.WRITING_BLOCK


@pytest.mark.slow
def test_a_model_folder_gives_the_same_bytes_in_one_process_or_two(tmp_path, small_blocks):
    from tests.inference.tiny import tiny_folder

    folder = str(tiny_folder(tmp_path / "model"))
    caption = {"image_captioning_mapper": {"hf_img2seq": folder, "caption_num": 2}}
    recipe = config(made_rows(tmp_path, 30), caption)
    for workers in (0, 2):
        here = LocalModels(device="cpu", threads=1, batch=3)
        out = tmp_path / str(workers)
        run_process(replace(recipe, model_workers=workers), out, models=here, workers=1)
    assert contents(tmp_path / "2") == contents(tmp_path / "0")
    texts = {row["text"] for row in lines(tmp_path / "0" / "data.jsonl")}
    assert len(texts) > 20


def test_an_interrupt_ends_all_processes_and_the_run_goes_on(tmp_path):
    path = made_rows(tmp_path, 600)
    notes = NotingModels(str(tmp_path / "notes"))
    _, said = ended_at_a_caption(path, 2, signal.SIGINT)
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert said.count("Traceback") == 1
    before = len(notes.asked(""))
    run_process(config(path, REWRITE, CAPTION), tmp_path / "out", models=notes, workers=1)
    run_process(config(path, REWRITE, CAPTION), tmp_path / "whole", models=models(tmp_path))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert before > 0
    assert len(notes.asked("")) - len(models(tmp_path).asked("")) <= 2 * answers.PORTION


class Studio:
    """A painter that draws, keeps back every third picture, and a captioner that prepares."""

    def __init__(self):
        self.asked = 0

    def painter(self, path):
        return self

    captioner = painter

    def paint(self, images, prompts, keys, **how):
        self.asked += len(images)
        return [
            Refusal("kept back") if key % 3 == 2 else Image.new(image.mode, (9, 7), key)
            for image, key in zip(images, keys, strict=True)
        ]

    def prepare(self, image):
        return image.resize((2, 2)).tobytes()

    def prepare_file(self, content):
        return content[:3] or None

    def caption(self, images, prompts, count, keys, all_drawn=False):
        self.asked += len(images)
        assert all(isinstance(image, bytes) for image in images)
        return [
            [Caption(f"{len(image)} {key}", 0.5)] for image, key in zip(images, keys, strict=True)
        ]


def test_pictures_painted_and_captions_of_prepared_pictures_are_remembered(tmp_path):
    shown = [Image.new("L", (8, 8), n) for n in range(4)] + [Image.new("F", (8, 8), 5.0)]
    keys = list(range(5))
    found = []
    for _ in range(2):
        studio = Studio()
        remembering = answers.RememberingModels(studio, {})
        with remembering.block(tmp_path / "block-0"):
            painted = remembering.painter("p").paint(shown, ["x"] * 5, keys, strength=0.5)
            captioner = remembering.captioner("c")
            ready = [captioner.prepare(image) for image in shown[:4]]
            ready.append(captioner.prepare_file(b"a file of some bytes"))
            assert captioner.prepare_file(b"") is None
            told = captioner.caption(ready, [None] * 5, 1, keys)
        found.append(
            ([one if isinstance(one, Refusal) else one.tobytes() for one in painted], told)
        )
        # The picture of floats is no PNG: it is painted again.
        assert studio.asked == (10 if len(found) == 1 else 1)
    assert found[0] == found[1]
    with remembering.block(tmp_path / "block-0"):
        for how in ({"strength": 0.6}, {"strength": 0.5, "steps": 3}):
            remembering.painter("p").paint(shown[:1], ["x"], [0], **how)
        remembering.painter("q").paint(shown[:1], ["x"], [0], strength=0.5)
        remembering.painter("p").paint(shown[1:2], ["x"], [0], strength=0.5)
    assert studio.asked == 5
    plain = answers.RememberingModels(NotingModels(str(tmp_path / "n")), {}).captioner("c")
    assert not hasattr(plain, "prepare")


@pytest.mark.parametrize("workers", [0, 2])
def test_answers_of_blocks_that_are_safe_do_not_pile_up(tmp_path, workers, small_blocks):
    recipe = config(made_rows(tmp_path, 200), REWRITE, model_workers=workers)
    held = []

    def progress(*told):
        held.append(len(list((tmp_path / "out").glob(".answers-*/*"))))

    run_process(recipe, tmp_path / "out", models=models(tmp_path), workers=1, progress=progress)
    assert len(held) == 20
    # The block that lands, those under way, and those that wait for their turn.
    assert max(held) <= 2 + 6 * max(1, workers)


def test_pictures_that_are_not_asked_for_are_not_decoded_for_long(tmp_path):
    (bound,) = operators_of(config(tmp_path / "a.jsonl", BRIGHT))
    for number in range(6):
        write_picture(tmp_path / f"{number}.png", (24, 20), number)
    items = [Item(str(n), n, {"text": "", "images": [f"{tmp_path}/{n}.png"]}) for n in range(6)]
    decoder = Decoder()
    ready = []
    for asked in (6, 1, 6):
        files = AheadFiles((), decoder)
        batch = Batch(items, Context(), files)
        files.begin(bound, batch)
        ready.append(bound.place in decoder.asking)
        for (file,) in batch.image_files(bound.op)[:asked]:
            assert files.rgb(file).size == (24, 20)
        files.close()
        assert files.held == 0
    decoder.close()
    assert ready == [False, True, False]
