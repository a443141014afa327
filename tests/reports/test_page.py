"""Anchors, marked words, pictures and the style of the pages."""

from __future__ import annotations

import base64
import io
import re
from importlib import resources

import pytest
from PIL import Image

from vlforge.reports.page import Anchors, breakable, caption_of, mark_changes
from vlforge.reports.pictures import Thumbnails


def test_anchors_are_unique_and_plain_on_first_use():
    anchors = Anchors()
    taken = [anchors.take("sample", x) for x in ("000123", "000123", 'a b"<', "", "一")]
    assert taken == ["sample-000123", "sample-000123-2", "sample-a-b", "sample-x", "sample-一"]


def test_anchors_never_collide_with_numbered_ones():
    anchors = Anchors()
    taken = [anchors.take("s", x) for x in ("a", "a", "a-2", "a")]
    assert len(set(taken)) == 4


def test_changed_words_are_marked_as_whole_runs():
    before, after = mark_changes("a red cross on white", "a large blue cross on white")
    assert before == "a <del>red</del> cross on white"
    assert after == "a <ins>large blue</ins> cross on white"


def test_neighbouring_changes_share_one_mark():
    before, _ = mark_changes("one two end", "ten six end")
    assert before == "<del>one two</del> end"


def test_scripts_without_spaces_are_compared_by_character():
    _, after = mark_changes("红色的圆", "蓝色的圆")
    assert after == "<ins>蓝</ins>色的圆"


def test_marked_words_are_escaped():
    before, after = mark_changes("<b>", "<script>")
    assert "<script>" not in after
    assert "<b>" not in before


def test_equal_texts_have_no_marks():
    assert mark_changes("the same", "the same") == ("the same", "the same")


def test_captions_lose_their_special_tokens():
    assert caption_of("<__dj__image> a  cat\n <|__dj__eoc|>") == "a cat"
    assert caption_of(None) == ""


def test_long_names_may_break_after_underscores():
    assert breakable("a_b<") == "a_<wbr>b&lt;"


def picture(path, size, mode="RGB", **how):
    """A plain picture on disk."""
    Image.new(mode, size, 90 if mode in ("L", "I;16") else None).save(path, **how)
    return path


def opened(thumbnail):
    """The thumbnail's own picture."""
    return Image.open(io.BytesIO(base64.b64decode(thumbnail.src.partition(",")[2])))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "I;16"])
def test_thumbnails_are_made_of_every_mode(tmp_path, mode):
    name = "x.tif" if mode == "CMYK" else "x.png"
    found = Thumbnails(100_000).make(str(picture(tmp_path / name, (600, 300), mode)), ())
    assert (found.width, found.height) == (600, 300)
    assert opened(found).size == (240, 120)


def test_thumbnails_stand_upright(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    path = picture(tmp_path / "x.jpg", (300, 600), exif=turned)
    found = Thumbnails(100_000).make(str(path), ())
    assert (found.width, found.height) == (600, 300)
    assert opened(found).size == (240, 120)


def test_thumbnails_stop_at_their_budget(tmp_path):
    pictures = Thumbnails(1000)
    found = []
    for k in range(20):
        Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / f"{k}.png")
        found.append(pictures.make(f"{k}.png", (tmp_path,)))
    assert pictures.spent <= 1000
    assert found[-1].src == ""
    assert found[-1].note


def test_relative_pictures_are_found_below_the_given_folders(tmp_path):
    (tmp_path / "b").mkdir()
    picture(tmp_path / "b" / "x.png", (8, 8))
    assert Thumbnails(9999).make("x.png", (tmp_path / "a", tmp_path / "b")).src
    assert Thumbnails(9999).make("x.png", (tmp_path / "a",)).note == "file missing"
    assert Thumbnails(9999).make("bad\0name", (tmp_path,)).note == "file missing"


def style():
    """The style sheet as shipped with the package."""
    return (resources.files("vlforge.reports") / "templates" / "style.css.j2").read_text()


def colours(scheme):
    """Custom properties of one colour scheme."""
    light, dark = re.findall(r":root \{(.*?)\}", style(), re.S)[:2]
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))
    return found | (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark)) if scheme == "dark" else {}
    )


def contrast(one, other):
    """WCAG contrast ratio of two colours."""

    def luminance(colour):
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        lit = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * lit[0] + 0.7152 * lit[1] + 0.0722 * lit[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


TEXTS = ("ink", "muted", "link", "kept-ink", "changed-ink", "dropped-ink")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_by_aa(scheme):
    of = colours(scheme)
    tones = [f"tone-{k}" for k in range(6)]
    pairs = [(t, g) for t in TEXTS for g in ("ground", "soft")] + [(t, "ground") for t in tones]
    assert [pair for pair in pairs if contrast(of[pair[0]], of[pair[1]]) < 4.5] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marked_words_and_notices_stand_out_by_aa(scheme):
    of = colours(scheme)
    for ink, tint in (
        ("kept-ink", "kept-tint"),
        ("dropped-ink", "dropped-tint"),
        ("ink", "changed-tint"),
        ("changed-ink", "changed-tint"),
    ):
        assert contrast(of[ink], of[tint]) >= 4.5, ink


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_in_charts_stand_out_by_aa(scheme):
    of = colours(scheme)
    for name in ("kept", "changed", "dropped", "accent", *(f"tone-{k}" for k in range(6))):
        assert contrast(of[name], of["ground"]) >= 3, name


def test_badges_carry_white_words_by_aa():
    grounds = re.findall(r"\.badge\.on-\w+ \{ background: (#[0-9a-f]{6})", style())
    assert len(grounds) == 3
    assert all(contrast("#ffffff", ground) >= 4.5 for ground in grounds)


def test_meanings_have_the_colours_of_the_family():
    of = colours("light")
    assert (of["kept"], of["changed"], of["dropped"]) == ("#2e7d5b", "#b7791f", "#b23b3b")
    assert of["accent"] == "#2f6fde"
