"""What becomes of each key of a Data-Juicer 1.x recipe: the one table of it.

The docs' table is written from here (`vlforge list keys`), and `data_juicer.py`
obeys it, so that no key is ever ignored without a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["same", "differs", "no effect", "refused"]
STATUSES: dict[Status, str] = {
    "same": "means what it means in Data-Juicer",
    "differs": "is used, and what differs is said",
    "no effect": "is about how Data-Juicer runs; the kept rows are the same whatever it says",
    "refused": "would change the result and is not there: one line names it",
}


@dataclass(frozen=True)
class Key:
    """One key: its status, the values that ask for nothing, and the remark or remedy."""

    name: str
    status: Status
    remark: str = ""
    idle: tuple[Any, ...] = ()


def _keys(status: Status, remark: str, names: str, *idle: Any) -> list[Key]:
    return [Key(name, status, remark, idle) for name in names.split()]


_NOTHING: tuple[Any, ...] = (None, False, "", [], {})

_USED = [
    Key("dataset_path", "differs", "a file, a folder, or `W1 P1 W2 P2`: each weight is the share "
        "of that dataset's rows (1.6.1 reads the weights and takes all rows; `compat` restores "
        "that); a folder is read in the order of its paths"),
    Key("dataset", "same", "`max_sample_num`, and `configs` of type local with path and weight; "
        "the rows drawn, and their order, are Data-Juicer's"),
    Key("validators", "same", "the same checks on the first `sample_size` rows"),
    Key("load_dataset_kwargs", "differs", "`delimiter`, `sep` and `columns`; others are refused"),
    Key("suffixes", "same", "of all files of a folder, the commonest kind is read"),
    Key("add_suffix", "same", "on by itself where `suffix_filter` is used"),
    Key("export_path", "differs", "without one the rows are in `runs/NAME/data.jsonl`; "
        "`{work_dir}` and `{job_id}` are filled in where they are set"),
    Key("export_type", "same", "jsonl, json, parquet"),
    Key("export_shard_size", "same", "bytes of written JSON rather than of Arrow tables; the same "
        "file names"),
    Key("export_extra_args", "differs", "for parquet `compression` and `row_group_size`; others "
        "are refused"),
    Key("keep_stats_in_res_ds", "same"),
    Key("keep_hashes_in_res_ds", "differs", "the same fields, of the rows as they are exported; "
        "the hash of a text is Data-Juicer's, the others are VLForge's keys in hex"),
    Key("np", "same", "worker processes; never more blocks than there are"),
    Key("text_keys", "same", "the first is read; a row in which another is missing is dropped"),
    *_keys("same", "", "image_key image_bytes_key audio_key video_key image_special_token "
           "eoc_special_token process project_name"),
    Key("custom_operator_paths", "same", "files or folders with operators of your own"),
    Key("skip_op_error", "differs", "true: a bad row costs itself, not its batch; false is "
        "`strict: true`, the first bad row ends the run"),
    Key("open_tracer", "same", "files of the same names and fields in the work folder's `trace/`"),
    *_keys("same", "", "op_list_to_trace trace_num trace_keys"),
    Key("executor_type", "same", "default, ray, ray_partitioned; both Ray names mean the same"),
    Key("ray_address", "same"),
    *_keys("same", "read by `vlforge analyze`",
           "percentiles export_original_dataset save_stats_in_one_file"),
]  # fmt: skip

_NO_EFFECT = [
    *_keys("no effect", "filters that follow each other always run in one pass",
           "op_fusion fusion_strategy mapper_fusion mapper_fusion_vram_limit", False, "probe",
           True, 0.9),
    *_keys("no effect", "`np` says how many processes there are",
           "auto_op_parallelism turbo adaptive_batch_size export_in_parallel", True, False),
    *_keys("no effect", "no dataset is written between operators",
           "use_cache ds_cache_dir cache_compress temp_dir", True, None),
    *_keys("no effect", "a killed run always continues when the same command is given again",
           "use_checkpoint checkpoint checkpoint_dir resume job_id", *_NOTHING),
    *_keys("no effect", "no operator here looks at sound or film",
           "audio_special_token video_special_token", "<__dj__audio>", "<__dj__video>"),
    *_keys("no effect", "seconds, memory and counts of every operator are in `funnel.json`",
           "open_monitor event_logging event_log_dir open_insight_mining op_list_to_mine "
           "use_dag max_log_size_mb backup_count", *_NOTHING),
    *_keys("no effect", "a recipe is always checked before anything is read", "strict_preflight",
           True),
    *_keys("no effect", "a broken line always costs its row alone", "load_jsonl_lenient", False),
    *_keys("no effect", "the work folder is beside the export; `--out` names another",
           "work_dir", None),
    *_keys("no effect", "Ray Data cuts and places blocks itself",
           "partition partition_size partition_dir override_num_blocks read_options "
           "min_common_dep_num_to_combine conflict_resolve_strategy resource_optimization "
           "intermediate_storage preserve_intermediate_data elastic_juicer_adaptive_batching "
           "elastic_juicer_profile_seed", *_NOTHING, -1, "split"),
    *_keys("no effect", "read by Data-Juicer's Sandbox, not by its processing",
           "data_probe_algo data_probe_ratio auto_num", "uniform", 1.0, 1000),
    *_keys("no effect", "written by Data-Juicer itself into the table it prints",
           "config timestamp dataset_dir backed_up_config_path metadata_dir results_dir "
           "event_log_file job_summary_file debug _resume_requested _user_provided_job_id "
           "_same_yaml_config _original_args"),
]  # fmt: skip

_REFUSED = [
    *_keys("refused", "encrypt the files with a tool of your own",
           "encrypt_before_export decrypt_after_reading", None, False),
    Key("encryption_key_path", "refused", "encrypt the files with a tool of your own", (None, "")),
    Key("export_aws_credentials", "refused", "export to a local path and copy it", (None, {})),
    Key("generated_dataset_config", "refused", "name a dataset_path", (None, {})),
    Key("hpo_config", "refused", "`vlforge analyze` suggests bounds", (None, "")),
    Key("auto", "refused", "`vlforge analyze DATA` needs no recipe", (None, False)),
]  # fmt: skip

OURS = (
    Key("limit", "same", "only the first N rows (`--limit N`)"),
    Key("sample", "same", "N rows drawn by `seed`, in order (`--sample N`)"),
    Key("strict", "same", "the first bad row ends the run"),
    Key("confine", "same", "rows with pictures outside the dataset's folder are dropped"),
    Key("compat", "same", "`data_juicer` brings back what 1.6.1 does where that is wrong; also a "
        "key of every operator"),
    Key("absolute_paths", "same", "false: exported picture paths are as the dataset has them"),
    Key("text_key", "same", "another word for `text_keys`"),
    Key("seed", "same", "of all that is drawn"),
    Key("models", "same", "how operators' models are loaded: `{precision: bf16, quantise: 4bit}`"),
    Key("endpoints", "same", "servers that operators name as models: `{gpt: {model: …, url: …}}`"),
    Key("model_workers", "same", "processes that hold models; 0: one per GPU"),
    Key("replies", "same", "a file that keeps what endpoints answered"),
)  # fmt: skip
"""Keys that VLForge adds to a recipe."""

KEYS = {key.name: key for key in (*_USED, *_NO_EFFECT, *_REFUSED, *OURS)}


def asks_for_nothing(key: Key, value: Any) -> bool:
    """Whether a value without effect is the one that stands there anyway."""
    return not key.idle or any(value == idle and type(value) is type(idle) for idle in key.idle)


def keys_page() -> str:
    """The table of keys as Markdown, one part for each status."""
    mine = {key.name for key in OURS}
    lines: list[str] = []
    for status, meaning in STATUSES.items():
        rows = [key for key in KEYS.values() if key.status == status and key.name not in mine]
        lines += ["", f"**{status}**: {meaning}.", "", *_table(rows)]
    return "\n".join([*lines, "", "**added by VLForge**:", "", *_table(OURS)])


def _table(keys: Iterable[Key]) -> list[str]:
    grouped: dict[str, list[str]] = {}
    for key in keys:
        grouped.setdefault(key.remark, []).append(f"`{key.name}`")
    rows = [f"| {', '.join(names)} | {remark} |" for remark, names in grouped.items()]
    return ["| key | remark |", "|---|---|", *rows]
