"""Operators are found by name without importing the rest; every mistake is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vlforge import ops
from vlforge.ops.base import Filter, Operator
from vlforge.ops.bind import bind
from vlforge.ops.index import places
from vlforge.ops.select.random_rows import RandomSelector
from vlforge.ops.select.ranks import TopkSpecifiedFieldSelector
from vlforge.types import RecipeError


def test_every_operator_is_found_and_described():
    for info in ops.names():
        cls = ops.find(info.name)
        assert issubclass(cls, Operator)
        assert info.kind in ("filter", "mapper", "dedup", "grouper", "selector", "aggregator")
        assert info.doc.endswith((".", ":"))


def test_finding_one_operator_imports_neither_the_others_nor_numpy():
    code = (
        "import sys; from vlforge import ops; ops.find('text_length_filter');"
        "heavy = ('numpy', 'PIL', 'ftfy', 'vlforge.ops.dedup.images');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("process", "said"),
    [
        ([{"text_lenght_filter": {}}], "unknown operator 'text_lenght_filter': did you mean"),
        ([{"text_length_filter": {"min_length": 3}}], "unknown key 'min_length': did you mean"),
        ([{"text_length_filter": {"min_len": "ten"}}], "text_length_filter.min_len is 'ten'"),
        ([{"image_shape_filter": {"any_or_all": "some"}}], "image_shape_filter.any_or_all"),
        ([{"a": 1, "b": 2}], r"process\[0\] is"),
        ([{"text_length_filter": 3}], "not a table of keys"),
        ([{"words_num_filter": {"tokenization": True}}], "tokenization: false"),
        ([{"clean_links_mapper": {"pattern": "("}}], "no regular expression"),
        ([{"random_selector": {"select_ratio": 2}}], "not a share"),
        ([{"nowhere.module:Op": {}}], "cannot be imported"),
    ],
)  # fmt: skip
def test_mistakes_are_named(process, said):
    with pytest.raises(RecipeError, match=said):
        bind(process)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(RecipeError) as raised:
        bind(["nothing_filter", {"text_length_filter": {"x": 1}}])
    assert len(str(raised.value).splitlines()) == 2


def test_keys_of_how_to_run_are_taken_without_effect_and_noted():
    (bound,) = bind([{"text_length_filter": {"min_len": 3, "num_proc": 4, "accelerator": "cuda"}}])
    assert bound.op.min_len == 3
    assert bound.notes == ("text_length_filter: without effect here: num_proc, accelerator",)


def test_keys_of_how_to_run_that_say_what_is_anyway_so_are_not_noted():
    idle = {"accelerator": None, "cpu_required": 1, "mem_required": 0, "batch_size": 1000,
            "num_proc": -1, "audio_key": "audios", "skip_op_error": True}  # fmt: skip
    (bound,) = bind([{"text_length_filter": idle}])
    assert bound.notes == ()


@pytest.mark.parametrize("key", ["index_key", "stats_export_path"])
def test_a_key_that_would_write_something_else_is_refused_unless_empty(key):
    bind([{"text_length_filter": {key: None}}])
    with pytest.raises(RecipeError, match=f"text_length_filter.{key} is 'x'; remove it: "):
        bind([{"text_length_filter": {key: "x"}}])


def test_common_keys_are_taken_by_every_filter(tmp_path):
    common = {"min_closed_interval": False, "max_closed_interval": False, "reversed_range": True,
              "text_key": "meta.caption", "image_key": "pics"}  # fmt: skip
    (tmp_path / "flagged_words.json").write_text('{"en": ["damn"]}')
    needed = {
        "answer_consistency_filter": {"model": "m"},
        "image_text_agreement_filter": {"model": "m", "min_score": 0},
        "text_pair_similarity_filter": {"text_key_second": "other"},
        "phrase_grounding_recall_filter": {"tagger": str(Path(__file__).parent / "tagger")},
        "flagged_words_filter": {"flagged_words_dir": str(tmp_path)},
        "stopwords_filter": {"stopwords_dir": "builtin"},
        "token_num_filter": {"hf_tokenizer": __file__},
        "benchmark_overlap_filter": {"benchmarks": [str(tmp_path)]},
        "word_list_filter": {"words_file": __file__},
        "llm_condition_filter": {"condition": "it speaks of animals"},
        "vlm_quality_score_filter": {"model": "m"},
        "image_caption_likelihood_filter": {"model": "m", "min_score": 0},
        "text_quality_classifier_filter": {"model": "m", "label": "good"},
        "in_context_influence_filter": {"valid_dataset": [{"meta": {"caption": "t"}}]},
        "text_embd_similarity_filter": {"valid_dataset": [{"meta": {"caption": "t"}}]},
        "llm_task_relevance_filter": {"task_desc": "to describe pictures"},
        "perplexity_filter": {"model": __file__, "tokenizer": __file__},
    }
    needs_spacy = {"text_action_filter", "text_entity_dependency_filter"}
    for name in set(places()) - needs_spacy:
        if issubclass(ops.find(name), Filter):
            (bound,) = bind([{name: {**common, **needed.get(name, {})}}])
            assert bound.op.text_key == "meta.caption"


def test_fields_of_the_recipe_are_the_operators_unless_it_names_its_own():
    recipe = [{"text_length_filter": {"text_key": "t"}}, "words_num_filter"]
    own, common = bind(recipe, "caption", "pics")
    assert (own.op.text_key, common.op.text_key, common.op.image_key) == ("t", "caption", "pics")


def test_topk_takes_the_highest_and_leaves_missing_values_last():
    op = TopkSpecifiedFieldSelector(field_key="n", topk=3)
    assert op.rank([1, None, 5, 3, 5]) == [2, 4, 3]
    assert op.rank(["10", "9", "2"]) == [1, 2, 0]
    assert TopkSpecifiedFieldSelector(field_key="n", topk=1, reverse=False).rank([3, 1]) == [1]
    assert TopkSpecifiedFieldSelector(field_key="n", topk=2).rank([None, None, 1]) == [2, 0]
    assert TopkSpecifiedFieldSelector().rank([3, 1]) == [0, 1]


def test_random_rows_are_those_of_the_seed():
    op = RandomSelector(select_num=3)
    assert op.rank([None] * 40) == [32, 7, 39]
    assert RandomSelector(select_ratio=0.5, select_num=3, seed=1).rank([None] * 40) != op.rank(
        [None] * 40
    )
