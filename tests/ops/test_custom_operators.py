"""A user's own operators: ours and Data-Juicer's style, found by name, also in workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlforge.engine.in_memory import run_in_memory
from vlforge.ops import index
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.custom.dataset import RowsDataset
from vlforge.ops.custom.stand_in import is_installed
from vlforge.ops.foreign import load_custom
from vlforge.types import RecipeError

HERE = Path(__file__).parent / "custom_files"
THEIRS, OURS, PACKAGE = HERE / "for_data_juicer.py", HERE / "our_style.py", HERE / "word_package"
TEXTS = ["Hello world", "rhythm", "", "hello World "]


@pytest.fixture(autouse=True)
def only_ours_afterwards():
    """No custom operator outlives its test."""
    yield
    load_custom(None)


def ran(process, texts=TEXTS, stats=()):
    """Kept items and drop records of some texts."""
    rows = [{"id": at, "text": text} for at, text in enumerate(texts)]
    items = [Item(str(at), at + 1, row, dict(stats)) for at, row in enumerate(rows)]
    out = run_in_memory(bind(process), items, Context())
    return out.kept, {item.uid: drop for item, drop in out.dropped}


def written(tmp_path, source, name="mine.py"):
    """A file with that source."""
    path = tmp_path / name
    path.write_text(source)
    return str(path)


def test_files_of_both_styles_and_packages_are_found_by_name():
    found = load_custom([str(THEIRS), str(OURS), str(PACKAGE)])
    assert "question_mark_filter" in found
    assert index.find("vowel_filter") is found["vowel_filter"]
    assert {"greeting_mapper", "halves_mapper"} <= {info.name for info in index.names()}
    assert "words_base" not in found
    load_custom(None)
    with pytest.raises(RecipeError, match="unknown operator 'vowel_filter'"):
        index.find("vowel_filter")


def test_our_style_runs_as_any_operator():
    load_custom(str(OURS))
    kept, drops = ran([{"question_mark_filter": {"most": 0}}, "shouting_mapper"], ["a?", "b"])
    assert [item.row["text"] for item in kept] == ["B"]
    assert drops["0"].reason == "question_marks too high"


def test_a_foreign_filter_notes_its_statistics_and_names_the_refused_one():
    load_custom(str(THEIRS))
    kept, drops = ran(["vowel_filter"])
    assert [item.uid for item in kept] == ["0", "3"]
    assert kept[0].stats == {"vowel_ratio": 3 / 11}
    assert (drops["1"].stat, drops["1"].value) == ("vowel_ratio", 0.0)
    assert drops["2"].reason == "ZeroDivisionError in for_data_juicer.py, line 32"


def test_a_foreign_filter_takes_the_keys_of_all_filters_and_statistics_that_are_there():
    load_custom(str(THEIRS))
    kept, _ = ran([{"vowel_filter": {"reversed_range": True, "text_key": "text"}}])
    assert [item.uid for item in kept] == ["1"]
    kept, _ = ran(["vowel_filter"], ["xyz"], {"vowel_ratio": 0.5})
    assert kept[0].stats == {"vowel_ratio": 0.5}


def test_a_batched_foreign_filter_loses_the_bad_row_alone():
    load_custom(str(THEIRS))
    process = [{"length_filter_in_columns": {"most": 8, "keys": ["text"]}}]
    rows = [
        Item("0", 1, {"text": "short"}),
        Item("1", 2, {"text": None}),
        Item("2", 3, {"text": "x" * 9}),
    ]
    out = run_in_memory(bind(process), rows, Context())
    assert [(item.uid, item.stats) for item in out.kept] == [("0", {"text_len": 5})]
    reasons = {item.uid: drop.reason for item, drop in out.dropped}
    assert reasons["1"] == "TypeError in for_data_juicer.py, line 52"
    assert reasons["2"] == "text_len refused"


def test_foreign_mappers_rewrite_tag_and_multiply():
    load_custom([str(THEIRS), str(PACKAGE)])
    kept, drops = ran([{"first_word_mapper": {"mark": "?"}}])
    assert kept[0].row == {"id": 0, "text": "Hello world?", "__dj__meta__": {"keyword": "Hello"}}
    assert drops["2"].reason == "IndexError in for_data_juicer.py, line 69"
    kept, _ = ran(["halves_mapper"], ["abcd"])
    assert [(item.uid, item.row["text"]) for item in kept] == [("0/1", "ab"), ("0/2", "cd")]
    assert ran(["greeting_mapper"], ["you"])[0][0].row["text"] == "hello, you"


def test_foreign_selectors_and_deduplicators_choose_among_all_rows():
    load_custom(str(THEIRS))
    assert [item.uid for item in ran([{"every_nth_selector": {"n": 3}}])[0]] == ["3", "2"]
    kept, drops = ran(["lower_case_deduplicator"])
    assert [item.uid for item in kept] == ["0", "1", "2"]
    assert list(drops) == ["3"]
    assert kept[0].row == {"id": 0, "text": "Hello world"}


def test_what_a_selector_stumbles_over_ends_the_run_and_what_a_hash_does_costs_the_row():
    load_custom(str(THEIRS))
    with pytest.raises(RecipeError, match=r"every_nth_selector: TypeError in .*py, line 101"):
        ran(["every_nth_selector"], ["a", None])
    kept, drops = ran(["lower_case_deduplicator"], ["a", None, "A"])
    assert [item.uid for item in kept] == ["0"]
    assert list(drops) == ["1", "2"]


def test_a_deduplicator_without_process_keeps_the_first_of_each_hash(tmp_path):
    path = written(tmp_path, """
from data_juicer.ops.base_op import OPERATORS, Deduplicator

@OPERATORS.register_module("first_letter_deduplicator")
class FirstLetterDeduplicator(Deduplicator):
    def compute_hash(self, sample):
        sample["letter"] = sample["text"][0]
        return sample
""")  # fmt: skip
    load_custom(path)
    kept, drops = ran(["first_letter_deduplicator"], ["ab", "b", "a", ""])
    assert [item.uid for item in kept] == ["0", "1"]
    assert drops["2"].reason == "repeats an earlier row"
    assert drops["3"].reason == "IndexError in mine.py, line 7"


def test_parameters_are_the_arguments_of_init_whatever_their_names(tmp_path):
    path = written(tmp_path, """
from data_juicer.ops.base_op import OPERATORS, Filter

@OPERATORS.register_module("odd_filter")
class OddFilter(Filter):
    def __init__(self, keep, measure=[1], stats="s", **kwargs):
        super().__init__(**kwargs)
        self.said = (keep, measure, stats, self.query_key)
        measure.append(2)
    def compute_stats_single(self, sample):
        sample["__dj__stats__"]["said"] = repr(self.said)
        return sample
    def process_single(self, sample):
        return True
""")  # fmt: skip
    load_custom(path)
    for _ in range(2):
        kept, _ = ran([{"odd_filter": {"keep": 1, "query_key": "q"}}], ["x"])
        assert kept[0].stats == {"said": "(1, [1, 2], 's', 'q')"}
    with pytest.raises(
        RecipeError, match=r"odd_filter.keep .*missing|odd_filter: .*|field required"
    ):
        bind(["odd_filter"])
    with pytest.raises(RecipeError, match="unknown key 'mesure': did you mean 'measure'"):
        bind([{"odd_filter": {"keep": 1, "mesure": 2}}])


def test_complaints_about_parameters_come_before_the_run():
    load_custom(str(THEIRS))
    with pytest.raises(
        RecipeError, match=r"vowel_filter: ValueError in for_data_juicer.py, line 23"
    ):
        bind([{"vowel_filter": {"min_ratio": 2}}])


@pytest.mark.skipif(is_installed(), reason="the real data_juicer is installed")
def test_the_stand_in_is_there_only_while_a_custom_operator_is(tmp_path):
    path = written(tmp_path, """
from data_juicer.ops.base_op import OPERATORS, Mapper
from data_juicer.utils.lazy_loader import LazyLoader
from data_juicer.utils.constant import Fields, HashKeys, MetaKeys
from loguru import logger

text = LazyLoader("textwrap")

@OPERATORS.register_module("late_mapper")
class LateMapper(Mapper):
    def process_single(self, sample):
        from data_juicer.utils.mm_utils import SpecialTokens, remove_special_tokens
        logger.debug("seen {}", sample["id"])
        sample["text"] = text.shorten(remove_special_tokens(sample["text"]), 5, placeholder="")
        sample["names"] = [SpecialTokens.eoc, Fields.meta, HashKeys.hash, MetaKeys.bbox_tag]
        return sample
""")  # fmt: skip
    load_custom(path)
    kept, _ = ran(["late_mapper"], ["<__dj__image> one two"])
    assert kept[0].row["text"] == "one"
    assert kept[0].row["names"] == ["<|__dj__eoc|>", "__dj__meta__", "__dj__hash", "__dj__bbox__"]
    assert not [name for name in sys.modules if name.partition(".")[0] == "data_juicer"]


def test_a_name_of_ours_is_refused_unless_the_class_says_so(tmp_path):
    load_custom(str(OURS))
    assert [item.uid for item in ran(["text_length_filter"])[0]] == ["0", "1", "2", "3"]
    source = """
from data_juicer.ops.base_op import OPERATORS, Mapper

@OPERATORS.register_module("clean_links_mapper"{})
class Mine(Mapper):
    def process_single(self, sample):
        return {{"text": "mine"}}
"""
    with pytest.raises(RecipeError, match=r"'clean_links_mapper' .* that VLForge itself uses"):
        load_custom(written(tmp_path, source.format("")))
    load_custom(written(tmp_path, source.format(", force=True"), "forced.py"))
    assert ran(["clean_links_mapper"])[0][0].row["text"] == "mine"


def test_two_files_with_one_name_are_refused(tmp_path):
    copy = written(
        tmp_path,
        OURS.read_text().partition("@dataclass(frozen=True, kw_only=True)\nclass TextL")[0],
    )
    with pytest.raises(
        RecipeError, match=r"'question_mark_filter' of .*mine.py has a name that .*our_style"
    ):
        load_custom([str(OURS), copy])


def test_a_file_is_run_again_only_when_it_changed(tmp_path):
    source = "from vlforge.ops.base import TextMapper\nfrom dataclasses import dataclass\n" \
             "@dataclass(frozen=True)\nclass SameMapper(TextMapper):\n    '''Doc.'''\n"  # fmt: skip
    path = written(tmp_path, source)
    first = load_custom(path)["same_mapper"]
    assert load_custom(path)["same_mapper"] is first
    os.utime(path, (1, 1))
    assert load_custom(path)["same_mapper"] is not first


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\nimport nowhere_at_all", "line 2: ModuleNotFoundError"),
        ("def f(:", "line 1: SyntaxError"),
        ("x = 1", "holds no operator"),
        ("from vlforge.ops.base import TextMapper\nclass BareMapper(TextMapper):\n    pass",
         "BareMapper is no dataclass"),
        ("from data_juicer.utils.model_utils import get_model", "only a part of data_juicer"),
        ("from data_juicer.ops.base_op import OPERATORS, Mapper\n@OPERATORS.register_module('a')\n"
         "class A(Mapper):\n  def process(self, s): pass", "line 3: TypeError: A defines process"),
        ("from data_juicer.ops.base_op import OPERATORS, Grouper\n@OPERATORS.register_module('a')\n"
         "class A(Grouper): pass", "a is no Filter, Mapper, Deduplicator or Selector"),
    ],
)  # fmt: skip
@pytest.mark.skipif(is_installed(), reason="the real data_juicer is installed")
def test_what_cannot_be_loaded_is_named_with_its_line(tmp_path, source, said):
    path = written(tmp_path, source)
    with pytest.raises(RecipeError, match=said):
        load_custom(path)


def test_paths_that_hold_nothing_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    for path, said in (
        ("none.py", "does not exist"),
        (".", "no Python file"),
        ("notes.txt", "no Py"),
    ):
        with pytest.raises(RecipeError, match=said):
            load_custom(str(tmp_path / path))


def test_a_folder_that_is_no_package_is_loaded_file_by_file(tmp_path):
    for number in (1, 2):
        written(tmp_path, OURS.read_text().replace("Shouting", f"Shouting{number}")
                .replace("QuestionMark", f"Mark{number}").replace("TextLength", f"Long{number}"),
                f"part{number}.py")  # fmt: skip
    assert len(load_custom(str(tmp_path))) == 6


def test_a_package_with_the_name_of_a_module_is_refused(tmp_path):
    (tmp_path / "json").mkdir()
    written(tmp_path / "json", "", "__init__.py")
    with pytest.raises(RecipeError, match="has the name of the module 'json'"):
        load_custom(str(tmp_path / "json"))
    assert json.loads("1") == 1


def test_an_error_in_a_package_names_the_file(tmp_path):
    folder = tmp_path / "broken_words"
    folder.mkdir()
    written(folder, "from . import inner", "__init__.py")
    written(folder, "x = 1\n1 / 0", "inner.py")
    with pytest.raises(RecipeError, match=r"inner.py, line 2: ZeroDivisionError"):
        load_custom(str(folder))
    assert not [name for name in sys.modules if name.startswith("broken_words")]


WORKERS = """
import sys
from pathlib import Path
from vlforge.engine.config import ProcessConfig
from vlforge.engine.local import run_process
data, out, *custom = sys.argv[1:]
process = ({"vowel_filter": {"min_ratio": 0.3}}, "first_word_mapper", "halves_mapper",
           "lower_case_deduplicator", {"every_nth_selector": {"n": 2}}, "greeting_mapper")
for workers in (1, 2):
    config = ProcessConfig(data, process=process, custom_operator_paths=tuple(custom))
    run_process(config, Path(out) / str(workers), workers=workers)
"""


def test_forked_workers_run_custom_operators(tmp_path):
    data = tmp_path / "in.jsonl"
    rows = [{"id": at, "text": f"row {at % 997} is {'a' * (at % 7)}"} for at in range(7000)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-c", WORKERS, str(data), str(tmp_path), str(THEIRS), str(PACKAGE)]
    subprocess.run(command, check=True)
    one, two = ((tmp_path / str(n) / "data.jsonl").read_bytes() for n in (1, 2))
    assert one == two
    assert b'"text":"hello, row' in one


def test_the_dataset_of_selectors_does_what_theirs_does():
    data = RowsDataset([{"a": 3, "b": "x"}, {"a": 1}, {"a": 2, "c": None}])
    assert data["b"] == ["x", None, None]
    assert data[1] == {"a": 1, "b": None, "c": None}
    assert data[:2] == {"a": [3, 1], "b": ["x", None], "c": [None, None]}
    assert data.sort("a", reverse=True).places == [0, 2, 1]
    assert data.filter(lambda row, at: row["a"] > at, with_indices=True).places == [0]
    assert data.filter(lambda a: a < 3, input_columns="a").skip(1).places == [2]
    assert data.filter(lambda d: [n > 1 for n in d["a"]], batched=True).take(1).places == [0]
    assert data.map(lambda row: {"d": row["a"] * 2}).sort("d")["d"] == [2, 4, 6]
    assert data.shuffle(seed=42).select(range(2)).places == [2, 1]
    assert data.add_column("e", "xyx").remove_columns(["a"]).unique("e") == ["x", "y"]
    assert list(data.features) == data.column_names == ["a", "b", "c"]
    with pytest.raises(KeyError):
        data["none"]
