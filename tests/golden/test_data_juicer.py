"""Data-Juicer 1.6.1's own results: operators, recipes, converters, and what it gets wrong."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.golden.conftest import golden_root
from vlforge.data.images import load_upright
from vlforge.data.reference_tools import TOOLS, make_tool
from vlforge.engine.config import ProcessConfig
from vlforge.engine.in_memory import run_in_memory
from vlforge.engine.local import run_process
from vlforge.inference.scripted import ScriptedCaptioner, ScriptedModels, fingerprint
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.dedup.hashes import image_hash
from vlforge.ops.index import places
from vlforge.types import DataError

FAMILY = "data_juicer"
STATS = "__dj__stats__"
CAPTIONER = "Salesforce/blip2-opt-2.7b"


def lines_of(path: Path) -> list[Any]:
    """The values of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def operators_of(path: Path) -> list[str]:
    """The operators that a recipe names."""
    return [name for entry in settings_of(path)["process"] for name in entry]


def settings_of(path: Path) -> dict[str, Any]:
    """A recipe's keys."""
    from ruamel.yaml import YAML

    loaded: dict[str, Any] = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    return loaded


def operator_cases(root: Path, folder: str) -> list[Any]:
    """(case, folder of the family) of each recorded run of an operator that is here."""
    return [
        pytest.param(case, root, id=f"{FAMILY}/{folder}/{path.stem}[{number}]")
        for path in sorted((root / folder).glob("*.jsonl"))
        if path.stem in places()
        for number, case in enumerate(lines_of(path))
        if not any("images_desc" in row for row in case["output"] or ())  # test_..._pictures.py
    ]


def converter_cases(root: Path) -> list[Any]:
    """Recorded conversions between Data-Juicer's rows and other formats."""
    return [
        pytest.param(case, id=f"{FAMILY}/converters/{path.stem}[{number}]")
        for path in sorted((root / "converters").glob("*.json"))
        for number, case in enumerate(json.loads(path.read_text(encoding="utf-8")))
        if case["tool"] in TOOLS
    ]


def recipe_cases(root: Path, folder: str) -> list[Any]:
    """Recipes all of whose operators are here."""
    return [
        pytest.param(path, root, id=f"{FAMILY}/{folder}/{path.stem}")
        for path in sorted((root / folder).glob("*.yaml"))
        if all(name in places() for name in operators_of(path))
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per recorded case, its id naming the file."""
    makers: dict[str, tuple[tuple[str, ...], Callable[[Path], list[Any]]]] = {
        "case": (("case", "root"), lambda r: operator_cases(r, "ops")),
        "hashes": (("hashes", "root"), hash_cases),
        "wrong": (("wrong", "root"), lambda r: operator_cases(r, "known_wrong")),
        "conversion": (("conversion",), converter_cases),
        "recipe": (("recipe", "root"), lambda r: recipe_cases(r, "recipes")),
        "wrong_recipe": (
            ("wrong_recipe", "root"),
            lambda r: recipe_cases(r, "known_wrong/recipes"),
        ),
    }
    for name, (arguments, make) in makers.items():
        if name not in metafunc.fixturenames:
            continue
        base = golden_root(metafunc.config)
        found = make(base / FAMILY) if base and (base / FAMILY).is_dir() else []
        reason = f"goldens not found at {metafunc.config.getoption('--golden-root')}: {FAMILY}"
        missing = pytest.param(
            *[None] * len(arguments), id=f"{FAMILY}/{name}", marks=pytest.mark.skip(reason=reason)
        )
        metafunc.parametrize(arguments, found or [missing])


@dataclass
class Echoing:
    """Scripted captions that show which prompt arrived, also None where another row has one."""

    captions: ScriptedCaptioner

    def caption(self, images, prompts, count, keys, all_drawn=False):
        """As the recorded generator."""
        found = self.captions.caption(images, [None] * len(images), count, keys)
        if all(prompt is None for prompt in prompts):
            return found
        return [
            [type(c)(f"{c.text} [prompt={prompt}]", c.confidence) for c in candidates]
            for candidates, prompt in zip(found, prompts, strict=True)
        ]


def models_of(case: Any, root: Path) -> ScriptedModels:
    """The recorded generator of a captioning case."""
    scripts = {
        str(root / "images" / name): texts
        for name, texts in case.get("fake_candidates", {}).items()
    }
    return ScriptedModels({CAPTIONER: Echoing(ScriptedCaptioner.of_files(scripts))})


def items_of(rows: Sequence[Any], root: Path, image_key: str) -> list[Item]:
    """Input rows of a case, images below `root`, bytes decoded."""
    items = []
    for number, given in enumerate(rows):
        row = dict(given)
        if isinstance(row.get(image_key), list):
            row[image_key] = [str(root / path) for path in row[image_key]]
        if "image_bytes" in row:
            row["image_bytes"] = [base64.b64decode(b["__bytes_b64__"]) for b in row["image_bytes"]]
        items.append(Item(str(number), number + 1, row, {}, row.pop(STATS, {})))
    return items


@dataclass
class Outcome:
    """What a case came to."""

    kept: list[int]
    rows: list[dict[str, Any]]
    stats: list[dict[str, Any]]
    drops: dict[int, str]


AS_RECORDED = {
    "image_blur_mapper": "truncated pictures decode as far as they go",
    "image_captioning_mapper": "new rows do not tell where they come from",
    "image_deduplicator": "truncated pictures decode as far as they go",
    "image_face_blur_mapper": "truncated pictures decode as far as they go",
    "image_face_count_filter": "truncated pictures decode as far as they go",
    "image_face_ratio_filter": "truncated pictures decode as far as they go",
    "image_subplot_filter": "truncated pictures decode as far as they go",
    "ray_image_deduplicator": "truncated pictures decode as far as they go",
    "pii_redaction_mapper": "paths of pictures are redacted, each text several times",
    "random_selector": "a share below one row keeps all",
    "specified_numeric_field_filter": "the number 0 is taken for a missing one",
}
"""Operators whose default differs on purpose, and what Data-Juicer does: `compat` is tested."""


def run_case(case: Any, root: Path, **changes: Any) -> Outcome:
    """Run the case's operator over its input."""
    if case["op"] in AS_RECORDED and not case.get("right_result"):
        changes = {"compat": "data_juicer", **changes}
    with tempfile.TemporaryDirectory() as produced, contextlib.chdir(root):
        (bound,) = bind([{case["op"]: {**case["params"], **changes}}])
        image_key = bound.op.image_key
        items = items_of(case["input"], root, image_key)
        given = list(items)
        context = Context(models=models_of(case, root), produced=produced)
        ran = run_in_memory([bound], items, context)
        kept = [shown(item.row, root, image_key) for item in ran.kept]
    return Outcome(
        [int(re.match(r"\d+", item.uid).group()) for item in ran.kept],
        kept,
        [{**item.given, **item.stats} for item in given],
        {int(item.uid.split("/")[0]): drop.reason for item, drop in ran.dropped},
    )


def shown(row: dict[str, Any], root: Path, image_key: str) -> dict[str, Any]:
    """A row as the case writes it."""
    row = dict(row)
    if isinstance(row.get(image_key), list):
        row[image_key] = [p.removeprefix(f"{root}/") for p in row[image_key]]
    row.pop("image_bytes", None)
    return row


def without(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The row without some keys."""
    return {key: value for key, value in row.items() if key not in keys}


def same_stats(mine: Any, theirs: Any) -> bool:
    """Equal, floats to 1e-9; Data-Juicer's are rounded to 10 decimals."""
    if isinstance(theirs, dict):
        return all(key in mine and same_stats(mine[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list):
        return len(mine) == len(theirs) and all(map(same_stats, mine, theirs))
    if isinstance(theirs, float):
        return abs(mine - theirs) <= 1e-9
    return mine == theirs


def test_operator_gives_what_data_juicer_gives(case, root):
    out = run_case(case, root)
    if case["op"] == "image_captioning_mapper" and "random.choice" in case["note"]:
        assert_drawn_captions(case, out)
        return
    expected = [without(row, STATS, "image_bytes", "__dj__hash") for row in case["output"]]
    assert same_stats(out.rows, expected)
    assert [set(mine) for mine in out.rows] == [set(theirs) for theirs in expected]
    if "kept" in case:
        assert out.kept == case["kept"]
    recorded = case.get("stats_all", out.stats)
    wrong = [
        (number, mine, theirs)
        for number, (mine, theirs) in enumerate(zip(out.stats, recorded, strict=True))
        if not same_stats(mine, theirs)
    ]
    assert not wrong


def assert_drawn_captions(case: Any, out: Outcome) -> None:
    """Each new row holds one of each picture's candidates."""
    scripts = case["fake_candidates"]
    for mine, theirs in zip(out.rows, case["output"], strict=True):
        assert without(mine, "text") == without(theirs, "text")
        said = mine["text"].replace("<|__dj__eoc|>", "").split("<__dj__image>")[1:]
        for caption, path in zip(said, mine["images"], strict=True):
            assert mine["text"] == theirs["text"] or caption.strip() in scripts[Path(path).name]


def hash_cases(root: Path) -> list[Any]:
    """Recorded hashes of every row's pictures."""
    return [
        pytest.param(case, root, id=f"{FAMILY}/ops/{path.stem}[{number}]-hashes")
        for path in sorted((root / "ops").glob("image_deduplicator*.jsonl"))
        for number, case in enumerate(lines_of(path))
        if set(case["params"]) <= {"method"} and "image_bytes" not in case["input"][0]
    ]


def test_hashes_have_the_same_bits(hashes, root):
    method = hashes["params"].get("method", "phash")
    wrong = [
        row["images"]
        for row, recorded in zip(hashes["input"], hashes["hashes_all"], strict=True)
        if recorded["__dj__imagehash"]
        != "".join(
            image_hash(load_upright(root / path, truncated="fill").convert("RGB"), method).hex()
            for path in dict.fromkeys(row["images"])
        )
    ]
    assert not wrong


IN_PLACE = "def batch_inplace(samples):\n    samples['text'] = [t + '!' for t in samples['text']]"
"""The user's function that a case describes in its note: it edits its argument."""


def test_operator_is_right_where_data_juicer_is_wrong(wrong, root, tmp_path):
    if wrong["op"] == "python_file_mapper":
        (tmp_path / "mine.py").write_text(f"{IN_PLACE}\n    return samples\n")
        mine = {"file_path": str(tmp_path / "mine.py"), "function_name": "batch_inplace"}
        out = run_case({**wrong, "params": {**wrong["params"], **mine}}, root)
        assert [row["text"] for row in out.rows] == [row["text"] + "!" for row in wrong["input"]]
        return
    out = run_case(wrong, root)
    optional = set(wrong.get("right_optional", ()))
    if "right_kept" in wrong:
        assert set(out.kept) | optional == set(wrong["right_kept"]) | optional
        missing = set(range(len(wrong["input"]))) - set(out.kept)
        assert missing == set(out.drops)
    elif "." in wrong["params"].get("text_key", ""):
        flat = {**wrong, "params": {**wrong["params"], "text_key": "caption"}}
        flat["input"] = [{**row, "caption": row["meta"]["caption"]} for row in wrong["input"]]
        again = run_case(flat, root)
        assert (out.kept, out.stats) == (again.kept, again.stats)
        assert [r["meta"]["caption"] for r in out.rows] == [r["caption"] for r in again.rows]
    elif wrong["op"] == "usage_counter_mapper":
        total = int(re.search(r"total_tokens = (\d+)", wrong["right_result"]).group(1))
        assert out.rows[0]["__dj__meta__"]["total_tokens"] == total
    elif "right_texts_any_of" in wrong:
        assert [row["text"] for row in out.rows] in wrong["right_texts_any_of"]
    elif wrong["op"] == "image_captioning_mapper":
        assert_right_captions(wrong, root, out)
    elif wrong["op"] == "image_shape_filter":
        (theirs,) = wrong["stats_all"]
        swapped = {"image_width": theirs["image_height"], "image_height": theirs["image_width"]}
        assert out.stats == [swapped]
    else:
        assert "all rows kept" in wrong["right_result"]
        assert out.kept == list(range(len(wrong["input"])))


def assert_right_captions(case: Any, root: Path, out: Outcome) -> None:
    """Each caption after its own token; tokens that do not match images cost that row."""
    if case["output"] is None:
        assert list(out.drops.values()) == ["image tokens do not match images"]
        return
    assert [row["text"] for row in out.rows] == [case["right_result"].split(" (")[0]]
    as_theirs = run_case(case, root, compat="data_juicer")
    assert as_theirs.rows == case["output"]
    in_their_order = run_case(case, root, caption_order="data_juicer")
    assert [row["text"] for row in in_their_order.rows] == [r["text"] for r in case["output"]]


def test_conversion_equals_the_converters(conversion):
    params = dict(conversion["params"])
    if "original_llava_ds" in conversion:
        params["original"] = {str(row["id"]): row for row in conversion["original_llava_ds"]}
    if conversion["output"] is None:
        with pytest.raises(DataError):
            convert(conversion, params)
        return
    out = convert(conversion, params)
    drawn = drawn_position(conversion)
    if drawn is None:
        assert out == conversion["output"]
        return
    one_of = [convert(conversion, {**params, drawn: where}) for where in ("before", "after")]
    for mine, before, after in zip(out, *one_of, strict=True):
        assert len(mine["text"]) == len(before["text"]) == len(after["text"])
        assert without(mine, "text") == without(before, "text")


def drawn_position(conversion: Any) -> str | None:
    """The option of a case that leaves the tokens' place to chance."""
    params = conversion["params"]
    if params.get("image_special_token_insert_pos") == "random":
        return "image_special_token_insert_pos"
    is_drawn = params.get("image_broadcast") and "image_broadcast_pos" not in params
    return "image_broadcast_pos" if is_drawn else None


def convert(conversion: Any, params: dict[str, Any]) -> list[Any]:
    """All rows of a case, or the first fault; with a `failed_file` faulty rows are left out."""
    tool = make_tool(conversion["tool"], **params)
    out = []
    for row in conversion["input"]:
        try:
            out.append(tool(row))
        except DataError:
            if "failed_file" not in conversion:
                raise
    return [row for row in out if row is not None]


def run_recipe(path: Path, root: Path, out: Path) -> tuple[list[Any], list[Any], Path]:
    """Kept rows with relative paths, their statistics, and the stage's folder."""
    settings = settings_of(path)
    config = ProcessConfig(
        dataset_path=str(root / settings["dataset_path"]),
        process=tuple(settings["process"]),
        text_key=settings.get("text_keys", "text"),
        image_key=settings.get("image_key", "images"),
        image_special_token=settings["image_special_token"],
        eoc_special_token=settings["eoc_special_token"],
        keep_stats_in_res_ds=settings.get("keep_stats_in_res_ds", False),
    )
    with contextlib.chdir(root):
        run_process(config, out, workers=1)
    rows = [shown(row, root, config.image_key) for row in lines_of(out / "data.jsonl")]
    return rows, [line["stats"] for line in lines_of(out / "stats.jsonl")], out


def test_recipe_exports_what_data_juicer_exports(recipe, root, tmp_path):
    rows, stats, _ = run_recipe(recipe, root, tmp_path)
    expected = lines_of(recipe.parent / "expected" / f"{recipe.stem}.jsonl")
    assert [without(row, STATS) for row in rows] == [without(row, STATS) for row in expected]
    beside = lines_of(recipe.parent / "expected" / f"{recipe.stem}_stats.jsonl")
    wanted = [line[STATS] for line in beside]
    if not settings_of(recipe).get("op_fusion"):  # Data-Juicer reorders operators there
        assert [list(mine) for mine in stats] == [list(theirs) for theirs in wanted]
    assert all(map(same_stats, stats, wanted))
    for row, theirs in zip(rows, expected, strict=True):
        assert (STATS in row) == (STATS in theirs)


def test_recipe_is_right_where_data_juicer_is_wrong(wrong_recipe, root, tmp_path):
    rows, _, stage = run_recipe(wrong_recipe, root, tmp_path)
    right = json.loads((wrong_recipe.parent / f"{wrong_recipe.stem}.right.json").read_text())
    assert [row["id"] for row in rows] == right["right_kept_ids"]
    dropped = lines_of(stage / "dropped.jsonl")
    assert [row["id"] for row in dropped] == right["dropped_ids"]
    assert dropped[0]["reason"] == "missing image"


def test_scripted_pictures_are_told_apart(tmp_path):
    from PIL import Image

    assert fingerprint(Image.new("RGB", (2, 2))) != fingerprint(Image.new("RGB", (2, 3)))
