"""Data-Juicer's recipes are read whole: every key is used, harmless, or refused."""

from __future__ import annotations

import dataclasses

import pytest

from vlforge.engine.config import InputPart, Mix, ProcessConfig
from vlforge.recipe.adopt.data_juicer import adopt, read_data_juicer
from vlforge.recipe.adopt.data_juicer_keys import KEYS, OURS
from vlforge.recipe.adopt.data_juicer_operators import operators_page, why_not
from vlforge.types import RecipeError


@pytest.fixture
def recipe(tmp_path):
    def write(text, head="dataset_path: rows.jsonl\n"):
        path = tmp_path / "clean.yaml"
        path.write_text(head + text)
        return path

    return write


def read(path, **changes):
    return read_data_juicer(path, changes)


# Every key of Data-Juicer 1.6.1's command line, and those that only its printed table has.
ALL_KEYS = """
config auto auto_num hpo_config data_probe_algo data_probe_ratio load_jsonl_lenient use_dag
project_name executor_type strict_preflight dataset_path dataset generated_dataset_config
validators load_dataset_kwargs read_options override_num_blocks work_dir export_path export_type
export_shard_size export_in_parallel export_extra_args export_aws_credentials
decrypt_after_reading encrypt_before_export encryption_key_path keep_stats_in_res_ds
keep_hashes_in_res_ds np text_keys image_key image_bytes_key image_special_token audio_key
audio_special_token video_key video_special_token eoc_special_token suffixes turbo skip_op_error
use_cache ds_cache_dir cache_compress open_monitor use_checkpoint checkpoint event_logging
event_log_dir checkpoint_dir job_id resume temp_dir open_tracer op_list_to_trace trace_num
trace_keys open_insight_mining op_list_to_mine min_common_dep_num_to_combine
conflict_resolve_strategy op_fusion fusion_strategy mapper_fusion mapper_fusion_vram_limit
adaptive_batch_size process percentiles export_original_dataset save_stats_in_one_file
ray_address partition_size partition partition_dir custom_operator_paths
elastic_juicer_adaptive_batching elastic_juicer_profile_seed debug auto_op_parallelism
_resume_requested _user_provided_job_id _same_yaml_config metadata_dir results_dir event_log_file
job_summary_file backed_up_config_path timestamp dataset_dir add_suffix
""".split()


def test_every_key_of_data_juicer_has_its_fate():
    assert set(ALL_KEYS) <= set(KEYS)
    assert set(KEYS) - set(ALL_KEYS) <= {
        *(key.name for key in OURS), "_original_args", "max_log_size_mb", "backup_count",
        "resource_optimization", "intermediate_storage", "preserve_intermediate_data",
    }  # fmt: skip


def test_a_key_that_is_used_is_a_setting_or_belongs_to_the_analysis():
    settings = {field.name for field in dataclasses.fields(ProcessConfig)}
    analysed = {"percentiles", "export_original_dataset", "save_stats_in_one_file"}
    used = {key.name for key in KEYS.values() if key.status in ("same", "differs")}
    assert used - settings == analysed
    assert settings - used == {"extra"}


def test_keys_that_change_nothing_are_kept_aside_and_named_where_they_ask_for_something(recipe):
    adopted = adopt(recipe("use_cache: false\nopen_monitor: false\ntimestamp: x\nnp: 3\n"), {})
    assert adopted.config.extra == {"use_cache": False, "open_monitor": False, "timestamp": "x"}
    assert adopted.config.np == 3
    assert adopted.notes == ("without effect here: use_cache",)


def test_keys_of_the_analysis_are_kept_aside_without_a_word(recipe):
    adopted = adopt(recipe("percentiles: [0.1, 0.9]\n"), {})
    assert adopted.config.extra == {"percentiles": [0.1, 0.9]}
    assert adopted.notes == ()


@pytest.mark.parametrize(
    "line",
    [
        "encrypt_before_export: true",
        "generated_dataset_config: {type: x}",
        "hpo_config: a.yaml",
        "auto: true",
        "export_aws_credentials: {aws_region: x}",
    ],
)
def test_a_key_that_would_change_the_result_is_refused_with_its_line(recipe, line):
    key = line.partition(":")[0]
    with pytest.raises(RecipeError, match=rf"clean\.yaml:3: {key} is .* remove the key"):
        read(recipe(f"np: 1\n{line}\n"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("export_type: lance", "export_type is 'lance'; known: jsonl, json, parquet"),
        ("export_path: s3://b/x.jsonl", "export_path is 's3://b/x.jsonl'; name a local path"),
        ("load_dataset_kwargs: {split: x}", "load_dataset_kwargs.split is not there"),
        ("export_extra_args: {a: 1}", "export_extra_args.a is not there"),
        ("export_path: '{job_id}/x.jsonl'", "export_path holds {job_id}; set job_id"),
        ("np: many", "'np' is 'many'"),
        ("export_paht: x", "unknown key 'export_paht'; did you mean 'export_path'"),
        ("process: {a: b}", "`process` is a list of operators"),
    ],
)
def test_a_value_that_is_not_there_is_refused_with_its_line(recipe, line, said):
    with pytest.raises(RecipeError) as raised:
        read(recipe(f"np: 1\n{line}\n" if not line.startswith("np") else f"\n{line}\n"))
    assert f"clean.yaml:3: {said}" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_lists_and_nothing_may_be_written_as_data_juicer_allows(recipe):
    config = read(
        recipe("suffixes: .jsonl\ntrace_keys: id\nvalidators:\nexport_type:\ndataset: []\n"
               "custom_operator_paths: null\nexport_shard_size: 1e6\nbackup_count: 5\n")
    )  # fmt: skip
    assert config.suffixes == (".jsonl",)
    assert config.trace_keys == ("id",)
    assert (config.validators, config.export_type, config.dataset) == ((), "", None)
    assert config.export_shard_size == 1_000_000


def test_the_first_text_key_is_read_as_data_juicer_does(recipe):
    adopted = adopt(recipe("text_keys: [caption, alt]\n"), {})
    assert (adopted.config.text_key, adopted.config.text_keys) == ("caption", ("caption", "alt"))
    assert adopted.notes == ("'caption' is the text; rows without 'alt' are dropped",)
    assert read(recipe("text_keys: caption\n")).text_key == "caption"


def test_files_are_read_by_yaml_1_1_as_data_juicer_reads_them(recipe):
    config = read(
        recipe("keep_stats_in_res_ds: on\nskip_op_error: no\nproject_name: 'off'\n"
               "process:\n  - special_characters_filter: {max_ratio: 1e-3}\n")
    )  # fmt: skip
    assert config.keep_stats_in_res_ds is True
    assert config.stops_at_faults
    assert config.project_name == "off"
    assert config.process == ({"special_characters_filter": {"max_ratio": 0.001}},)
    assert read(recipe(""), keep_stats_in_res_ds="yes").keep_stats_in_res_ds is True


def test_a_mix_is_read_from_the_table_of_datasets(recipe):
    table = """\
dataset:
  max_sample_num: 10
  configs:
    - {type: local, path: a.jsonl, weight: 3}
    - path: b.parquet
"""
    mix = Mix((InputPart("a.jsonl", 3.0), InputPart("b.parquet")), 10)
    assert read(recipe(table, head="")).dataset == mix
    adopted = adopt(recipe(table), {})
    assert adopted.config.dataset is None
    assert adopted.notes == ("dataset is not read: dataset_path is given, and comes first",)
    with pytest.raises(RecipeError, match=r"clean\.yaml:4: dataset type 'remote' is not there"):
        read(recipe(table.replace("local", "remote"), head=""))
    with pytest.raises(RecipeError, match="needs `configs`"):
        read(recipe("dataset: {path: a}\n", head=""))


def test_a_place_in_the_export_path_is_filled_in(recipe):
    config = read(recipe("work_dir: out\njob_id: j1\nexport_path: '{work_dir}/{job_id}/x.jsonl'\n"))
    assert config.export_path == "out/j1/x.jsonl"


def test_a_changed_parameter_reaches_an_operator_wherever_it_stands(recipe):
    path = recipe("process:\n  - text_length_filter\n  - clean_email_mapper\n"
                  "  - text_length_filter: {min_len: 1, max_len: 9}\n")  # fmt: skip
    config = read(path, **{"text_length_filter.min_len": "7"})
    assert config.process == (
        {"text_length_filter": {"min_len": 7}},
        {"clean_email_mapper": {}},
        {"text_length_filter": {"min_len": 7, "max_len": 9}},
    )
    with pytest.raises(RecipeError, match="no operator 'text_lenght_filter'; did you mean"):
        read(path, **{"text_lenght_filter.min_len": "7"})


def test_a_group_of_keys_may_be_written_with_dots(recipe):
    config = read(recipe("partition.mode: auto\n"), **{"partition.size": "5", "np": "2"})
    assert config.extra["partition"] == {"mode": "auto", "size": 5}
    assert config.np == 2


def test_keys_about_how_an_operator_runs_are_left_out_and_told_once(recipe):
    path = recipe(
        "np: 4\nprocess:\n"
        "  - text_length_filter: {min_len: 2, num_proc: 4, batch_size: 7, mem_required: 0}\n"
        "  - clean_email_mapper: {cpu_required: 8, batch_size: 7, audio_key: audios}\n"
    )
    adopted = adopt(path, {})
    assert adopted.config.process == (
        {"text_length_filter": {"min_len": 2}},
        {"clean_email_mapper": {}},
    )
    assert adopted.notes == ("without effect on operators: batch_size, cpu_required",)


def test_one_operator_that_must_not_skip_errors_makes_the_run_strict(recipe):
    adopted = adopt(recipe("process:\n  - text_length_filter: {skip_op_error: false}\n"), {})
    assert adopted.config.stops_at_faults
    assert "text_length_filter.skip_op_error is false" in adopted.notes[0]


def test_names_of_ray_are_operators_and_its_repartition_is_passed_over(recipe):
    adopted = adopt(recipe("process:\n"
                           "  - ray_document_deduplicator: {lowercase: true}\n"
                           "  - ray_repartition_pipeline: {num_blocks: 4}\n"), {})  # fmt: skip
    assert adopted.config.process == ({"ray_document_deduplicator": {"lowercase": True}},)
    assert adopted.notes == ("ray_repartition_pipeline has no effect: Ray Data cuts blocks itself",)


def test_every_wrong_operator_is_named_with_its_line(recipe):
    path = recipe(
        "process:\n  - text_lenght_filter: {}\n  - text_length_filter: {min: 3}\n"
        "  - video_duration_filter: {}\n  - image_segment_mapper: {}\n  - [a]\n"
    )
    with pytest.raises(RecipeError) as raised:
        read(path)
    unknown, wrong_key, video, outside, no_operator = str(raised.value).splitlines()
    assert "clean.yaml:3: unknown operator" in unknown
    assert "clean.yaml:4: text_length_filter: unknown key 'min'" in wrong_key
    assert "clean.yaml:5: video_duration_filter is of the video family" in video
    assert "clean.yaml:6: image_segment_mapper runs a model that transformers" in outside
    assert "clean.yaml:7: ['a'] is not one `operator: parameters`" in no_operator


def test_a_recipe_without_dataset_says_so(recipe):
    with pytest.raises(RecipeError, match="dataset_path is missing"):
        read(recipe("process: []\n", head=""))


def test_operators_that_are_not_there_say_why_and_those_that_are_do_not():
    assert why_not("text_length_filter") is None
    assert why_not("nothing_of_the_kind_filter") is None
    assert "runs a model" in why_not("image_segment_mapper")
    assert why_not("image_nsfw_filter") is None


def test_the_table_of_operators_takes_its_remarks_from_the_operators():
    rows = dict(line.split(" | ", 1) for line in operators_page().splitlines()[2:])
    assert rows["| `maximum_line_length_filter`"].startswith("same")
    assert rows["| `image_size_filter`"].startswith("different | `compat: data_juicer`")
    assert rows["| `general_field_filter`"].startswith("same | As in Data-Juicer")
    assert rows["| `image_segment_mapper`"].startswith("not there | runs a model")
    assert rows["| `image_nsfw_filter`"].startswith("different | ")


TABLE = """\
2026-01-01 00:00:00.000 | INFO     | data_juicer.config - Configuration table:
╒══════════════╤═══════════════════════════════════════════════╕
│ key          │ values                                        │
╞══════════════╪═══════════════════════════════════════════════╡
│ config       │ [Path_fr(clean.yaml, cwd=/data)]              │
├──────────────┼───────────────────────────────────────────────┤
│ dataset_path │ '/data/in.jsonl'                              │
├──────────────┼───────────────────────────────────────────────┤
│ export_type  │ None                                          │
├──────────────┼───────────────────────────────────────────────┤
│ process      │ [{'text_length_filter': {'accelerator': None, │
│              │                          'audio_key': 'audios',
│              │                          'max_len': 9223372036854775807, │
│              │                          'min_len': 12,       │
│              │                          'num_proc': 1}}]     │
├──────────────┼───────────────────────────────────────────────┤
│ np           │ 1                                             │
├──────────────┼───────────────────────────────────────────────┤
│ timestamp    │ '20260101000000'                              │
├──────────────┼───────────────────────────────────────────────┤
│ dataset_dir  │ '/data'                                       │
╘══════════════╧═══════════════════════════════════════════════╛
2026-01-01 00:00:00.100 | INFO     | the run begins
""".replace("'audios',\n", "'audios', │\n")


def test_the_table_that_data_juicer_prints_is_a_recipe(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text(TABLE)
    config = read(path)
    assert config.dataset_path == "/data/in.jsonl"
    assert config.np == 1
    params = {"max_len": 9223372036854775807, "min_len": 12}
    assert config.process == ({"text_length_filter": params},)
