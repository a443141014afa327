"""`run_process`: what is kept, what is dropped and why, whatever the number of workers."""

from __future__ import annotations

import json

import pytest

from tests.engine.made import config, lines, text_rows, write_picture, write_rows
from vlforge.engine.local import run_process
from vlforge.types import Caption, DataError, RecipeError

CLEAN = (
    "clean_links_mapper",
    {"text_length_filter": {"min_len": 12}},
    {"document_deduplicator": {"lowercase": True}},
    {"special_characters_filter": {"max_ratio": 0.4}},
    {"word_repetition_filter": {"rep_len": 2}},
)


def test_kept_and_dropped_rows_are_all_rows_and_say_why(tmp_path):
    rows = text_rows(200)
    out = tmp_path / "out"
    funnel = run_process(config(write_rows(tmp_path / "a.jsonl", rows), *CLEAN), out)
    kept, dropped = lines(out / "data.jsonl"), lines(out / "dropped.jsonl")
    assert sorted([r["id"] for r in kept] + [r["id"] for r in dropped]) == sorted(
        r["id"] for r in rows
    )
    assert len(kept) == len(lines(out / "stats.jsonl")) == funnel["rows_out"]
    short = next(r for r in dropped if r["id"] == "r3")
    assert (short["op"], short["reason"], short["stat"], short["value"], short["bound"]) == (
        "text_length_filter", "text_len too low", "text_len", 5, ">= 12")  # fmt: skip
    assert short["line"] == 4
    assert short["row"]["text"] == "short"


def test_the_funnel_is_a_chain(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [*text_rows(300), "{broken", '"word"'])
    funnel = run_process(config(path, *CLEAN), tmp_path / "out")
    assert funnel["bad_lines"] == 2
    rows = funnel["rows_in"] - funnel["bad_lines"]
    for op in funnel["ops"]:
        assert op["rows_in"] == rows
        rows = op["rows_out"] = op["rows_in"] - op["dropped"]
        assert sum(op["reasons"].values()) == op["dropped"]
    assert rows == funnel["rows_out"]
    length = funnel["ops"][1]
    histogram = length["stats"]["text_len"]["histogram"]
    assert sum(histogram["counts"]) == length["rows_in"]
    assert sum(histogram["kept_counts"]) == length["rows_out"]
    assert len(histogram["edges"]) == len(histogram["counts"]) + 1
    assert length["stats"]["text_len"]["bounds"] == [12, None]


def test_histograms_after_a_dedup_count_what_reached_the_filter(tmp_path):
    funnel = run_process(
        config(write_rows(tmp_path / "a.jsonl", text_rows(300)), *CLEAN), tmp_path / "out"
    )
    special = funnel["ops"][3]
    counts = special["stats"]["special_char_ratio"]["histogram"]["counts"]
    assert sum(counts) == special["rows_in"]


def test_a_row_is_charged_to_the_cheapest_filter_whatever_the_order(tmp_path):
    write_picture(tmp_path / "a.png", (20, 20))
    row = {"id": 1, "text": "tiny", "images": ["a.png"]}
    path = write_rows(tmp_path / "a.jsonl", [row])
    filters = [
        {"image_detail_filter": {"min_contrast": 200}},
        {"image_shape_filter": {"min_width": 64}},
        {"text_length_filter": {"min_len": 10}},
    ]
    for turn in range(3):
        out = tmp_path / str(turn)
        order = filters[turn:] + filters[:turn]
        funnel = run_process(config(path, *order), out)
        (dropped,) = lines(out / "dropped.jsonl")
        assert dropped["op"] == "text_length_filter"
        assert [op["op"] for op in funnel["ops"]] == [name for entry in order for name in entry]


def test_the_first_row_in_order_survives_a_dedup_even_beyond_blocks(tmp_path):
    rows = [{"id": n, "text": f"text number {n % 1500} with some words"} for n in range(4500)]
    out = tmp_path / "out"
    run_process(config(write_rows(tmp_path / "a.jsonl", rows), "document_deduplicator"), out)
    assert [row["id"] for row in lines(out / "data.jsonl")] == list(range(1500))
    first = lines(out / "dropped.jsonl")[0]
    assert first["uid"].endswith("-1500")
    assert first["value"].endswith("-0")


def test_a_row_dropped_before_a_dedup_does_not_stand_for_its_repeats(tmp_path):
    rows = [{"id": n, "text": "one and the same text", "n": n} for n in range(3)]
    out = tmp_path / "out"
    recipe = config(
        write_rows(tmp_path / "a.jsonl", rows),
        {"specified_numeric_field_filter": {"field_key": "n", "min_value": 1}},
        "document_deduplicator",
    )
    run_process(recipe, out)
    assert [row["id"] for row in lines(out / "data.jsonl")] == [1]


def test_a_repeat_is_shown_as_the_dedup_saw_it(tmp_path):
    rows = [{"id": n, "text": "mail me at a.b@example.org please"} for n in range(2)]
    out = tmp_path / "out"
    recipe = config(
        write_rows(tmp_path / "a.jsonl", rows), "document_deduplicator", "clean_email_mapper"
    )
    funnel = run_process(recipe, out)
    (dropped,) = lines(out / "dropped.jsonl")
    assert "example.org" in dropped["row"]["text"]
    assert funnel["ops"][1]["changed"] == 1
    assert len(lines(out / "changed.jsonl")) == 1


def test_a_repeat_with_half_a_character_is_shown_whole(tmp_path):
    half = '{"id": "%s", "text": "one half \\ud800 of a character, see www.example.org/page"}'
    path = write_rows(tmp_path / "a.jsonl", [half % "a", half % "b"])
    process = ("document_deduplicator", "clean_links_mapper")
    run_process(config(path, *process), tmp_path / "out")
    (dropped,) = lines(tmp_path / "out" / "dropped.jsonl")
    assert dropped["row"] == json.loads(half % "b")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{broken", "broken line"),
        ('["a list"]', "not an object"),
        ('{"id": 1}', "no text"),
        ('{"text": null}', "no text"),
        ('{"text": 12}', "text is not a string"),
        ('{"text": "long enough here", "images": "a.png"}', "images are not a list of paths"),
        ('{"text": "long enough here", "images": [1]}', "images are not a list of paths"),
        ('{"text": "long enough here", "images": ["gone.png"]}', "missing image"),
        ('{"text": "long enough here", "images": ["page.jpg"]}', "unreadable image"),
        ('{"text": "long enough here", "images": ["cut.png"]}', "truncated image"),
    ],
)
def test_a_bad_row_costs_itself_only(tmp_path, bad, reason):
    (tmp_path / "page.jpg").write_text("<html>")
    cut = write_picture(tmp_path / "cut.png")
    cut.write_bytes(cut.read_bytes()[:-200])
    good = {"text": "a good row of text", "images": []}
    path = write_rows(tmp_path / "a.jsonl", [good, bad, "", good])
    out = tmp_path / "out"
    funnel = run_process(
        config(path, {"text_length_filter": {"min_len": 1}}, "image_shape_filter",
               "image_detail_filter"), out)  # fmt: skip
    assert funnel["rows_out"] == 2
    (dropped,) = lines(out / "dropped.jsonl")
    assert (dropped["reason"], dropped["line"]) == (reason, 2)
    assert [line["uid"][-2:] for line in lines(out / "stats.jsonl")] == ["-0", "-3"]


def test_images_are_exported_absolute_and_statistics_on_demand(tmp_path):
    write_picture(tmp_path / "a.png")
    row = {"text": "some text", "images": ["a.png"]}
    path = write_rows(tmp_path / "a.jsonl", [row])
    recipe = config(path, "image_shape_filter", keep_stats_in_res_ds=True)
    run_process(recipe, tmp_path / "out")
    (kept,) = lines(tmp_path / "out" / "data.jsonl")
    assert kept["images"] == [str(tmp_path / "a.png")]
    assert kept["__dj__stats__"] == {"image_width": [64], "image_height": [48]}


def test_statistics_that_a_row_brings_are_taken_until_a_mapper_changes_it(tmp_path):
    row = {"text": "mail a.b@example.org today", "__dj__stats__": {"text_len": 99}}
    path = write_rows(tmp_path / "a.jsonl", [row])
    run_process(config(path, "text_length_filter"), tmp_path / "out")
    assert lines(tmp_path / "out" / "stats.jsonl")[0]["stats"]["text_len"] == 99
    run_process(config(path, "clean_email_mapper", "text_length_filter"), tmp_path / "out")
    assert lines(tmp_path / "out" / "stats.jsonl")[0]["stats"]["text_len"] == 11


def test_a_json_array_is_a_dataset_too(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(text_rows(30)))
    funnel = run_process(config(path, "text_length_filter"), tmp_path / "out")
    assert funnel["rows_in"] == 30


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "holds no rows"), ('{"caption": "x"}\n', "no usable row: line 1: no text"),
     ("[{broken", "not JSON")],
)  # fmt: skip
def test_a_dataset_without_any_usable_row_is_refused(tmp_path, content, said):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=said) as raised:
        run_process(config(path, "text_length_filter"), tmp_path / "out")
    assert "\n" not in str(raised.value)


def test_a_recipe_with_mistakes_is_refused_before_anything_is_written(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", text_rows(3))
    with pytest.raises(RecipeError, match="did you mean 'text_length_filter'"):
        run_process(config(path, "text_lenght_filter"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Saying:
    """A captioner, a scorer and their source in one."""

    def captioner(self, path):
        return self

    def scorer(self, path):
        return self

    def caption(self, images, prompts, count, keys):
        return [[Caption(f"{i.width} wide, {k}", -0.5) for k in range(count)] for i in images]

    def score(self, images, texts):
        return [float("64 wide" in text) for text in texts]


def test_derived_rows_are_named_after_their_source_and_judged_on_their_own(tmp_path):
    write_picture(tmp_path / "a.png", (64, 48))
    write_picture(tmp_path / "b.png", (32, 48))
    rows = [
        {"id": n, "text": "<__dj__image> old <|__dj__eoc|>", "images": [f"{n}.png"]} for n in "ab"
    ]
    recipe = config(
        write_rows(tmp_path / "a.jsonl", rows),
        "text_length_filter",
        {"image_captioning_mapper": {"caption_num": 2, "keep_candidate_mode": "all"}},
        {"image_text_agreement_filter": {"model": "m", "min_score": 1}},
    )
    out = tmp_path / "out"
    funnel = run_process(recipe, out, models=Saying())
    kept = lines(out / "stats.jsonl")
    assert [(line["id"], line["uid"].partition("-")[2]) for line in kept] == [
        ("a", "0/1"), ("a", "0/2")]  # fmt: skip
    assert kept[0]["stats"]["caption_confidence"] == [-0.5]
    assert kept[0]["stats"]["image_text_agreement"] == [1.0]
    mapper, judge = funnel["ops"][1:]
    assert (mapper["rows_in"], mapper["added"], mapper["rows_out"]) == (2, 4, 6)
    assert (judge["dropped"], funnel["rows_out"]) == (4, 2)
    assert {line["op"] for line in lines(out / "changed.jsonl")} == {"image_captioning_mapper"}


def test_an_operator_that_names_a_model_says_so_where_there_is_none(tmp_path):
    write_picture(tmp_path / "a.png")
    row = {"text": "<__dj__image> x", "images": ["a.png"]}
    path = write_rows(tmp_path / "a.jsonl", [row])
    with pytest.raises(Exception, match="given no models"):
        run_process(config(path, "image_captioning_mapper"), tmp_path / "out")


def test_progress_ends_at_the_number_of_rows(tmp_path):
    seen = []
    path = write_rows(tmp_path / "a.jsonl", text_rows(2500))
    run_process(config(path), tmp_path / "out", progress=lambda *told: seen.append(told[:2]))
    assert seen == [(1000, 2500), (2000, 2500), (2500, 2500)]
