"""What a source reads: any format, folders, mixes, some rows only; and from where it goes on."""

from __future__ import annotations

import gzip
import json
from dataclasses import astuple
from hashlib import sha256

import pytest

from tests.engine.made import write_rows
from vlforge.engine.config import InputPart, Mix, ProcessConfig
from vlforge.engine.rows import reading_of
from vlforge.engine.source import Position, open_source
from vlforge.types import DataError

ROWS = [{"id": n, "text": f"row {n}"} for n in range(250)]


def blocks_of(config, rows=40, start=None):
    source = open_source(config)
    return list(source.blocks(rows, start or Position()))


def tracks_of(config, rows=40, start=None):
    reading = reading_of(config)
    return [track for b in blocks_of(config, rows, start) for track in reading.tracks(b)]


def ids_of(config, rows=40, start=None):
    return [track.item.row.get("id") for track in tracks_of(config, rows, start)]


def write_all_formats(folder):
    """The same rows in every format that keeps them as they are."""
    import pyarrow as pa
    import zstandard
    from pyarrow import parquet

    plain = write_rows(folder / "a.jsonl", ROWS).read_bytes()
    (folder / "b.json").write_text(json.dumps(ROWS, indent=2))
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(plain))
    (folder / "d.jsonl.zst").write_bytes(zstandard.compress(plain))
    lines = "".join(f"{row['id']}\t{row['text']}\n" for row in ROWS)
    (folder / "e.tsv").write_text("id\ttext\n" + lines)
    parquet.write_table(pa.Table.from_pylist(ROWS), folder / "f.parquet", row_group_size=70)
    return folder


NAMES = ["a.jsonl", "b.json", "c.jsonl.gz", "d.jsonl.zst", "e.tsv", "f.parquet"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("some", [{}, {"limit": 93}, {"sample": 60}, {"limit": 99, "sample": 20}])
def test_reading_goes_on_behind_any_block(tmp_path, name, some):
    config = ProcessConfig(str(write_all_formats(tmp_path) / name), **some)
    blocks = blocks_of(config)
    whole = ids_of(config)
    assert all(len(block.lines) <= 40 for block in blocks)
    assert [block.at.number for block in blocks] == list(range(len(blocks)))
    read = 0
    for block in blocks:
        read += len(block.lines)
        assert ids_of(config, start=Position(*astuple(block.next))) == whole[read:]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_rows_and_numbers(tmp_path, name):
    config = ProcessConfig(str(write_all_formats(tmp_path) / name))
    tracks = tracks_of(config)
    assert [track.item.row for track in tracks] == ROWS
    assert [track.item.line for track in tracks] == list(range(1, 251))
    prefix = open_source(config).fingerprint()
    assert [track.item.uid for track in tracks[:2]] == [f"{prefix}-0", f"{prefix}-1"]


def test_a_limit_takes_the_first_rows_and_passes_over_blank_lines(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [ROWS[0], "", "  ", ROWS[1], ROWS[2]])
    assert ids_of(ProcessConfig(str(path), limit=2)) == [0, 1]
    assert open_source(ProcessConfig(str(path), limit=2)).row_count() == 2


def test_a_sample_is_drawn_by_the_seed_and_keeps_the_order(tmp_path):
    path = str(write_rows(tmp_path / "a.jsonl", ROWS))
    first, again = (ids_of(ProcessConfig(path, sample=30, seed=1)) for _ in range(2))
    other = ids_of(ProcessConfig(path, sample=30, seed=2))
    assert first == again == sorted(set(first))
    assert len(first) == len(other) == 30
    assert first != other
    assert ids_of(ProcessConfig(path, sample=999)) == list(range(250))


def test_what_decides_on_the_rows_is_in_the_fingerprint(tmp_path):
    path = str(write_rows(tmp_path / "a.jsonl", ROWS))
    configs = [
        ProcessConfig(path), ProcessConfig(path, limit=3), ProcessConfig(path, sample=3),
        ProcessConfig(f"0.5 {path}"), ProcessConfig(f"2 {path}"),
    ]  # fmt: skip
    assert len({open_source(config).fingerprint() for config in configs}) == len(configs)


def test_a_folder_is_the_files_of_its_commonest_kind_in_order_of_their_paths(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, row in [("b.jsonl", 1), ("a.jsonl", 0), ("sub/c.jsonl", 2), (".hidden.jsonl", 9)]:
        write_rows(tmp_path / name, [ROWS[row]])
    (tmp_path / "x.csv").write_text("id,text\n7,seven\n")
    told = []
    config = ProcessConfig(str(tmp_path))
    open_source(config, told.append)
    assert ids_of(config) == [0, 1, 2]
    assert told == [
        f"{tmp_path}: 3 json files are read, 1 of other kinds are not; choose with `suffixes`"
    ]
    assert ids_of(ProcessConfig(str(tmp_path), suffixes=("csv",))) == [7]


def test_pictures_of_a_folder_lie_below_the_folder_not_the_file(tmp_path):
    (tmp_path / "sub").mkdir()
    row = {"text": "x", "images": ["p/1.jpg"]}
    write_rows(tmp_path / "sub" / "a.jsonl", [row])
    (in_folder,) = tracks_of(ProcessConfig(str(tmp_path)))
    (alone,) = tracks_of(ProcessConfig(str(tmp_path / "sub" / "a.jsonl")))
    assert in_folder.item.row["images"] == [str(tmp_path / "p/1.jpg")]
    assert alone.item.row["images"] == [str(tmp_path / "sub/p/1.jpg")]


def test_each_text_file_is_a_row_and_equal_texts_have_names_of_their_own(tmp_path):
    for name in ("a.txt", "b.txt", "c.md"):
        (tmp_path / name).write_text("the same text\n")
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe broken")
    tracks = tracks_of(ProcessConfig(str(tmp_path)), rows=3)
    texts = [track.item.row.get("text") for track in tracks]
    assert texts == ["the same text\n"] * 3 + [None]
    assert len({track.item.uid for track in tracks}) == 4
    assert tracks[3].drop.reason == "broken line"
    assert "d.txt is no UTF-8 text" in tracks[3].drop.value


# Drawn by Data-Juicer 1.6.1 from the same rows: 57 and 40, weights 0.3 and 1, 50 in all.
DRAWN = [28, 52, 18, 24, 7, 17, 27, 47, 56, 39, 42, 5, 1032, 1007, 1039, 1018, 1004, 1037, 1016,
         1005, 1025, 1028, 1021, 1020, 1035, 1024, 1010, 1027, 1031, 1030, 1026, 1006, 1029, 1011,
         1023, 1009, 1036, 1022, 1019, 1003, 1000, 1015, 1017, 1034, 1012, 1014, 1038, 1002, 1033,
         1001]  # fmt: skip


def two_datasets(folder):
    first = write_rows(folder / "a.jsonl", [{"id": n, "text": "x"} for n in range(57)])
    second = write_rows(folder / "b.jsonl", [{"id": 1000 + n, "text": "x"} for n in range(40)])
    return first, second


def test_a_budget_is_shared_out_and_drawn_as_data_juicer_does(tmp_path):
    first, second = two_datasets(tmp_path)
    mix = Mix((InputPart(str(first), 0.3), InputPart(str(second), 1)), 50)
    assert ids_of(ProcessConfig(dataset=mix)) == DRAWN


def test_rows_that_are_no_use_do_not_take_a_share_and_are_not_lost(tmp_path):
    rows = [{"id": n, "text": "x"} for n in range(57)]
    bad = ["{broken", {"id": 99, "text": None}]
    path = write_rows(tmp_path / "a.jsonl", [bad[0], *rows[:20], bad[1], *rows[20:]])
    mix = Mix((InputPart(str(path), 1),), 12)
    tracks = tracks_of(ProcessConfig(dataset=mix), rows=5)
    assert [t.item.row["id"] for t in tracks if t.drop is None] == DRAWN[:12]
    assert [t.drop.reason for t in tracks if t.drop] == ["broken line", "no text"]


def test_weights_in_the_path_are_shares_and_rows_beyond_one_repeat_under_names_of_their_own(
    tmp_path,
):
    first, second = two_datasets(tmp_path)
    config = ProcessConfig(f"0.2 '{first}' 2.5 '{second}' 1 '{second}'")
    ids = ids_of(config)
    assert ids[:12] == DRAWN[:12]
    assert len(ids) == 12 + 100 + 40
    assert {n: ids[12:112].count(n) for n in set(ids[12:112])}.items() >= {(1032, 3), (1001, 2)}
    assert ids[112:] == list(range(1000, 1040))
    tracks = tracks_of(config)
    assert len({track.item.uid for track in tracks}) == len(tracks)
    assert tracks[-1].item.uid.endswith("-39+3")


def test_by_compat_weights_in_the_path_change_nothing(tmp_path):
    first, second = two_datasets(tmp_path)
    config = ProcessConfig(f"0.5 {first} 2 {second}", compat="data_juicer")
    assert ids_of(config) == [*range(57), *range(1000, 1040)]


def test_a_mix_goes_on_behind_any_block(tmp_path):
    first, second = two_datasets(tmp_path)
    config = ProcessConfig(f"0.5 {first} 1.5 {second}")
    whole = ids_of(config, rows=16)
    read = 0
    for block in blocks_of(config, rows=16):
        read += len(block.lines)
        assert ids_of(config, 16, block.next) == whole[read:]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "no dataset is named"),
        ("0.5 1 a.jsonl", "two weights and no path between"),
        ("a.jsonl 0.5", "names no path"),
        ("'a.jsonl", "cannot be split"),
        ("gone.jsonl", "gone.jsonl does not exist"),
        ("empty", "holds no file that can be read"),
        ("0 a.jsonl", "all weights of the dataset are 0"),
    ],
)
def test_an_input_that_is_not_there_is_named(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_rows(tmp_path / "a.jsonl", ROWS[:3])
    with pytest.raises(DataError, match=said) as raised:
        open_source(ProcessConfig(words))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("key", ["limit", "sample"])
def test_no_rows_at_all_are_no_sensible_wish(tmp_path, key):
    path = write_rows(tmp_path / "a.jsonl", ROWS[:3])
    with pytest.raises(DataError, match=f"{key} is 0"):
        open_source(ProcessConfig(str(path), **{key: 0}))


@pytest.mark.parametrize(
    ("text", "ids", "said"),
    [
        ("[]", [], None),
        (' [ {"id": 1, "text": "a]"} ,\n{"id":2,"text":"\\""}]', [1, 2], None),
        ('[{"id": 1, "text": "x"}, {"id": 2, "te', [1], "broken after item 1"),
        ('[{"id": 1, "text": "x"}, nonsense]', [1], "broken after item 1"),
        ('[{"id": 1, "text": "x"}', [1], "broken after item 1"),
    ],
)
def test_an_array_is_read_as_far_as_it_is_whole(tmp_path, text, ids, said):
    path = tmp_path / "a.json"
    path.write_text(text)
    blocks = open_source(ProcessConfig(str(path))).blocks(1)
    reading = reading_of(ProcessConfig(str(path)))
    found = []
    if said is None:
        found = [t.item.row["id"] for b in blocks for t in reading.tracks(b)]
    else:
        with pytest.raises(DataError, match=said):
            found += [t.item.row["id"] for b in blocks for t in reading.tracks(b)]
    assert found == (ids if said is None else [])


def test_an_item_longer_than_what_is_read_at_once_is_whole(tmp_path):
    rows = [{"id": n, "text": "é" * 300_000} for n in range(3)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    assert [t.item.row for t in tracks_of(ProcessConfig(str(path)))] == rows


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_packed_file_that_is_cut_off_is_named(tmp_path, name):
    import zstandard

    lines = "\n".join(
        json.dumps({**row, "x": sha256(str(row).encode()).hexdigest()}) for row in ROWS
    ).encode()
    packed = gzip.compress(lines) if name.endswith("gz") else zstandard.compress(lines)
    (tmp_path / name).write_bytes(packed[:-20])
    with pytest.raises(DataError, match=rf"{name} cannot be read"):
        ids_of(ProcessConfig(str(tmp_path / name)))


def test_rows_outside_the_folder_cost_themselves_when_the_run_is_confined(tmp_path):
    home = tmp_path / "data"
    home.mkdir()
    (tmp_path / "x.jpg").write_bytes(b"")
    (home / "link.jpg").symlink_to(tmp_path / "x.jpg")
    (home / "inside.jpg").write_bytes(b"")
    paths = ["inside.jpg", "../x.jpg", str(tmp_path / "x.jpg"), "link.jpg", "a/../inside.jpg"]
    path = write_rows(home / "a.jsonl", [{"text": "x", "images": [p]} for p in paths])
    tracks = tracks_of(ProcessConfig(str(path), confine=True))
    assert [t.drop is None for t in tracks] == [True, False, False, False, True]
    assert {t.drop.reason for t in tracks if t.drop} == {"image outside the data folder"}
    assert all(t.drop is None for t in tracks_of(ProcessConfig(str(path))))


def test_a_row_needs_all_text_keys_and_the_first_is_its_text(tmp_path):
    rows = [{"text": "a", "alt": "b"}, {"text": "a"}, {"text": "a", "alt": None}]
    path = write_rows(tmp_path / "a.jsonl", rows)
    tracks = tracks_of(ProcessConfig(str(path), text_keys=("text", "alt")))
    assert [t.drop is None for t in tracks] == [True, False, False]


def test_a_row_without_the_text_field_says_which_fields_it_has(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"caption": "a", "id": 1}])
    (track,) = tracks_of(ProcessConfig(str(path)))
    assert track.drop.value == "no field 'text'; it has 'caption', 'id'"


def test_rows_carry_the_suffix_of_their_file_where_an_operator_asks_for_it(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROWS[0]).encode()))
    asks = ProcessConfig(str(path), process=({"suffix_filter": {"suffixes": [".x"]}},))
    assert tracks_of(asks)[0].item.row["__dj__suffix__"] == ".jsonl.gz"
    assert "__dj__suffix__" not in tracks_of(ProcessConfig(str(path)))[0].item.row


def test_sound_and_film_paths_become_absolute_like_pictures(tmp_path):
    row = {"text": "x", "audios": ["s/1.wav"], "videos": None}
    (track,) = tracks_of(ProcessConfig(str(write_rows(tmp_path / "a.jsonl", [row]))))
    assert track.item.row == {"text": "x", "audios": [str(tmp_path / "s/1.wav")], "videos": None}


def test_a_document_that_is_no_text_says_what_to_do(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7")
    with pytest.raises(DataError, match=r"a\.pdf is no text; convert it to \.txt first"):
        open_source(ProcessConfig(str(tmp_path / "a.pdf")))
