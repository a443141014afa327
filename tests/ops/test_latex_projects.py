"""LaTeX projects: archives to text, figures to rows."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile

import pytest

from vlforge.engine.in_memory import run_in_memory
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import bind
from vlforge.types import RecipeError

NAME = "latex_merge_tex_mapper"


def merged(path, **params):
    """The text of one archive, or why its row is dropped."""
    row = {"text": "old", "compressed_file": str(path) if path else None}
    out = run_in_memory(bind([{NAME: params}]), [Item("0", 1, row)], Context())
    return out.kept[0].row["text"] if out.kept else out.dropped[0][1].reason


def zipped(path, files):
    """A zip of some files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path, members, mode="w:gz"):
    """A tar of (header, content) pairs."""
    with tarfile.open(path, mode) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_tex_files_are_joined_in_the_archives_order(tmp_path):
    path = zipped(tmp_path / "a.ZIP", {"z.tex": "é", "pic.png": "x", "d/a.tex": b"\xff!"})
    assert merged(path) == "é\n\n\ufffd!"
    assert merged(path, separator="|") == "é|\ufffd!"
    assert merged(zipped(tmp_path / "b.zip", {"a.txt": "x"})) == ""


def test_sizes_are_limited_per_file_and_in_all(tmp_path):
    path = zipped(tmp_path / "a.zip", {"1.tex": "a" * 10, "2.tex": "b" * 50, "3.tex": "c" * 20})
    assert merged(path, separator="", max_file_size=49) == "a" * 10 + "c" * 20
    assert merged(path, separator="", max_total_size=60) == "a" * 10 + "b" * 50
    assert merged(path, separator="", max_total_size=59) == "a" * 10
    assert len(merged(path, separator="", max_file_size=0, max_total_size=None)) == 80


def test_a_zip_that_lies_about_its_size_is_broken_not_large(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a.tex": "a" * 1_000_000})
    data = path.read_bytes().replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    path.write_bytes(data)
    assert merged(path, max_file_size=100) == "broken archive: BadZipFile"


def test_links_are_not_followed_and_names_lead_nowhere(tmp_path):
    (tmp_path / "secret").write_text("secret")
    link, hard, up = (tarfile.TarInfo(n) for n in ("a.tex", "b.tex", "../../up.tex"))
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
    hard.type, hard.linkname = tarfile.LNKTYPE, str(tmp_path / "secret")
    path = tarred(tmp_path / "a.tgz", [(link, b""), (hard, b""), (up, b"up")])
    before = sorted(p.name for p in tmp_path.rglob("*"))
    assert merged(path) == "up"
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_what_cannot_be_read_is_dropped_with_the_reason_but_for_compat(tmp_path, monkeypatch):
    whole = tarred(tmp_path / "a.tar.gz", [(tarfile.TarInfo("a.tex"), os.urandom(9000))])
    (tmp_path / "cut.tar.gz").write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "no.zip").write_bytes(b"no zip")
    assert merged(tmp_path / "cut.tar.gz") == "broken archive: EOFError"
    assert merged(tmp_path / "no.zip") == "broken archive: BadZipFile"
    assert merged(tmp_path / "none.zip") == "missing archive"
    assert merged(tmp_path / "a.rar") == "archive is not zip, tar, tar.gz or tgz"
    assert merged(None) == "no archive named"
    assert merged(tmp_path / "none.zip", compat="data_juicer") == ""
    monkeypatch.setattr("vlforge.ops.files.archives.MOST_PASSED", 100)
    assert merged(whole) == "archive of more files or bytes than are read"


def figures(text, **params):
    """The rows that one source becomes, without its text."""
    name = "latex_figure_context_extractor_mapper"
    row = {"text": text, "images": ["old"]}
    out = run_in_memory(bind([{name: params}]), [Item("0", 1, row)], Context())
    return [{k: v for k, v in item.row.items() if k != "text"} for item in out.kept]


def figure(body, kind="figure"):
    """An environment around a body."""
    return f"\\begin{{{kind}}}{body}\\end{{{kind}}}"


def test_a_figure_has_its_pictures_caption_label_and_citing_paragraphs():
    body = r"[t]\includegraphics[width=1cm]{ a.png }\caption[s]{A {b {c}}}\label{fig:a}"
    text = "See \\ref{fig:a}.\n\nNot \\ref{fig:ab}.\n\n" + figure(body) + "\n\n\\cref{x, fig:a }"
    (row,) = figures(text)
    assert row["images"] == ["a.png"]
    assert (row["caption"], row["label"], row["parent_label"]) == ("A {b {c}}", "fig:a", "")
    assert row["citing_paragraphs"] == [r"See \ref{fig:a}.", r"\cref{x, fig:a }"]
    assert figures(text, citation_commands=["cref"])[0]["citing_paragraphs"] == [
        r"\cref{x, fig:a }"
    ]


def test_a_citation_in_a_float_is_no_paragraph():
    text = figure(r"\includegraphics{a}\label{f}") + "\n\n" + figure(r"\ref{f}", "table*")
    assert figures(text)[0]["citing_paragraphs"] == []


def test_parts_name_their_parent_and_share_its_citations():
    left = figure(r"{0.5\textwidth}\includegraphics{l}\caption{left}\label{f:l}", "subfigure")
    right = r"\subfloat[right]{\includegraphics{r}}"
    text = r"\ref{f}" + "\n\n" + figure(left + right + r"\caption{both}\label{f}")
    rows = figures(text, parent_caption_key="of")
    assert [(r["caption"], r["images"], r["of"]) for r in rows] == [
        ("left", ["l"], "both"), ("right", ["r"], "both")
    ]  # fmt: skip
    assert all(row["citing_paragraphs"] == [r"\ref{f}"] for row in rows)


def test_parts_inside_parts_leave_the_parent_its_caption_but_for_compat():
    inner = figure(r"{.3\linewidth}\subfloat{\includegraphics{s}}", "subfigure")
    text = figure(inner + r"\caption{whole}")
    assert {row["parent_caption"] for row in figures(text)} == {"whole"}
    assert {row["parent_caption"] for row in figures(text, compat="data_juicer")} == {""}


def test_minipages_are_figures_of_their_own_but_for_tables():
    def page(body):
        return figure(r"{.5\textwidth}\includegraphics{p}" + body, "minipage")

    text = figure(page(r"\caption{one}") + page(r"\captionof{table}{t}") + page(""), "figure*")
    assert [row["caption"] for row in figures(text)] == ["one", ""]


@pytest.mark.parametrize(
    "text", ["none", figure(r"\caption{no picture}"), r"\begin{figure}\includegraphics{a}"]
)
def test_a_source_without_a_figure_is_dropped(text):
    assert figures(text) == []


def test_unclosed_environments_and_braces_take_no_quadratic_time():
    text = r"\begin{figure}[\caption{" * 5_000 + figure(r"\includegraphics{a}\caption{end}")
    assert [row["caption"] for row in figures(text)] == ["end"]


def test_an_empty_separator_is_refused():
    with pytest.raises(RecipeError, match="paragraph_separator is empty"):
        bind([{"latex_figure_context_extractor_mapper": {"paragraph_separator": ""}}])
