"""Data-Juicer's operators and what becomes of each: there, passed over, or why not.

Operators that are there speak for themselves: where their documentation names
Data-Juicer or `compat`, those sentences are the remark in the table.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

_FREE = """
chinese_convert_mapper clean_copyright_mapper clean_email_mapper clean_html_mapper
clean_ip_mapper clean_links_mapper download_file_mapper expand_macro_mapper
extract_tables_from_html_mapper fix_unicode_mapper image_blur_mapper
image_face_blur_mapper latex_figure_context_extractor_mapper latex_merge_tex_mapper
nlpaug_en_mapper nlpcda_zh_mapper pii_redaction_mapper
punctuation_normalization_mapper python_file_mapper python_lambda_mapper
remove_bibliography_mapper remove_comments_mapper remove_header_mapper
remove_long_words_mapper remove_non_chinese_character_mapper
remove_repeat_sentences_mapper remove_specific_chars_mapper remove_table_text_mapper
remove_words_with_incorrect_substrings_mapper replace_content_mapper
s3_download_file_mapper s3_upload_file_mapper sentence_split_mapper
text_chunk_mapper tool_success_tagger_mapper usage_counter_mapper
whitespace_normalization_mapper alphanumeric_filter average_line_length_filter
character_repetition_filter flagged_words_filter general_field_filter
image_aspect_ratio_filter image_face_count_filter image_face_ratio_filter
image_shape_filter image_size_filter image_subplot_filter language_id_score_filter
maximum_line_length_filter special_characters_filter specified_field_filter
specified_numeric_field_filter stopwords_filter suffix_filter text_action_filter
text_entity_dependency_filter text_length_filter token_num_filter
word_repetition_filter words_num_filter document_deduplicator
document_line_deduplicator document_minhash_deduplicator
document_simhash_deduplicator image_deduplicator frequency_specified_field_selector
random_selector range_specified_field_selector tags_specified_field_selector
topk_specified_field_selector key_value_grouper naive_grouper naive_reverse_grouper
ray_document_deduplicator ray_image_deduplicator ray_bts_minhash_deduplicator
ray_bts_minhash_cpp_deduplicator
"""
_ASKING = """
calibrate_qa_mapper calibrate_query_mapper calibrate_response_mapper
entity_attribute_aggregator extract_entity_attribute_mapper
extract_entity_relation_mapper extract_event_mapper extract_keyword_mapper
extract_nickname_mapper extract_support_text_mapper generate_qa_from_examples_mapper
generate_qa_from_text_mapper image_aesthetics_filter image_captioning_from_gpt4v_mapper
image_captioning_mapper image_diffusion_mapper image_nsfw_filter image_ohem_selector
image_pair_similarity_filter image_tagging_vlm_mapper image_text_matching_filter
image_text_similarity_filter image_watermark_filter in_context_influence_filter
instruction_following_difficulty_filter llm_analysis_filter llm_condition_filter
llm_difficulty_score_filter llm_extract_mapper llm_perplexity_filter
llm_quality_score_filter llm_ray_vllm_engine_pipeline llm_task_relevance_filter
meta_tags_aggregator mllm_mapper most_relevant_entities_aggregator nested_aggregator
optimize_prompt_mapper optimize_qa_mapper optimize_query_mapper optimize_response_mapper
pair_preference_mapper perplexity_filter phrase_grounding_recall_filter
pii_llm_suspect_mapper query_intent_detection_mapper query_sentiment_detection_mapper
query_topic_detection_mapper relation_identity_mapper sdxl_prompt2prompt_mapper
sentence_augmentation_mapper text_embd_similarity_filter text_pair_similarity_filter
text_tagging_by_prompt_mapper vlm_ray_vllm_engine_pipeline
"""
"""Those that ask a model, on this machine or behind an endpoint."""
_OUTSIDE = """
detect_character_attributes_mapper detect_character_locations_mapper
detect_main_character_mapper image_detection_yolo_mapper image_mmpose_mapper
image_remove_background_mapper image_sam_3d_body_mapper image_segment_mapper
image_tagging_mapper imgdiff_difference_area_generator_mapper
imgdiff_difference_caption_generator_mapper
"""
"""Those whose models come with packages of their own."""
_ELSEWHERE = {
    "human_preference_annotation_mapper": "needs a Label Studio server",
    "export_to_lerobot_mapper": "is of the video family",
    "vggt_mapper": "is of the video family",
}
_FAMILIES = ("agent_", "audio_", "dialog_", "video_")
NEEDS_PACKAGE = "runs a model that transformers does not hold (YOLO, SAM, RAM, MMPose, rembg)"

PASSED_OVER = {"ray_repartition_pipeline": "Ray Data cuts blocks itself"}
"""Operators that change no row."""


def why_not(name: str) -> str | None:
    """Why an operator of Data-Juicer is not there; None where it is, or is none of its."""
    found = _absent().get(name)
    if found is None and name.startswith(_FAMILIES):
        found = f"is of the {name.partition('_')[0]} family, which VLForge does not process"
    return f"{name} {found}; take it out of the recipe" if found else None


def operators_page() -> str:
    """Data-Juicer's operators as a Markdown table: same, different and why, or why not."""
    from vlforge.ops.index import find, places

    there = places()
    rows = {}
    for name in sorted({*_FREE.split(), *_ASKING.split()} & set(there)):
        remarks = _remarks(find(name))
        is_different = any(map(_differs, remarks))
        rows[name] = ("different" if is_different else "same", " ".join(remarks))
    for name, why in PASSED_OVER.items():
        rows[name] = ("no effect", why)
    for name, why in _absent().items():
        rows.setdefault(name, ("not there", why))
    lines = ["| operator | here | remark |", "|---|---|---|"]
    lines += [f"| `{name}` | {here} | {remark} |" for name, (here, remark) in sorted(rows.items())]
    families = ", ".join(f"`{family}*`" for family in _FAMILIES)
    return "\n".join([*lines, f"| {families} | not there | other media and agents' logs |"])


def _absent() -> dict[str, str]:
    """Operators that are not there, with the reason."""
    from vlforge.ops.index import places

    groups = {
        **dict.fromkeys([*_FREE.split(), *_ASKING.split()], "is not there yet"),
        **dict.fromkeys(_OUTSIDE.split(), NEEDS_PACKAGE),
        **_ELSEWHERE,
    }
    return {name: why for name, why in groups.items() if name not in places()}


def _remarks(operator: Any) -> list[str]:
    """The sentences of an operator's documentation that name Data-Juicer or `compat`."""
    text = " ".join((inspect.getdoc(operator) or "").split()).replace("|", "\\|")
    told: list[str] = []
    before = ""
    for sentence in re.split(r"(?<=[.])\s+(?=[A-Z`])", text):
        if "Data-Juicer" in sentence or "compat" in sentence:
            # "They" and "It" mean nothing without the sentence before.
            if re.match(r"(?:They|It|This|That)\b", sentence) and before not in told:
                told.append(before)
            told.append(sentence)
        before = sentence
    return told


def _differs(remark: str) -> bool:
    """Whether a remark tells a difference: "as in Data-Juicer" tells none."""
    alike = r"(?:[Aa]s in|[Aa]s|of|like|by|with|in) Data-Juicer(?:'s)?|Data-Juicer's"
    return "compat" in remark or "Data-Juicer" in re.sub(alike, "", remark)
