"""`vlforge download` takes our words and img2dataset's, and says what came of them."""

from __future__ import annotations

import pytest
import typer

from tests.download_site import running_site
from vlforge.cli import download as cli
from vlforge.data.download.config import UNUSED, DownloadConfig, config_of
from vlforge.types import RecipeError


@pytest.fixture
def site(monkeypatch):
    """A running site."""
    with running_site(monkeypatch) as server:
        yield server


def test_both_styles_mean_the_same():
    ours = ["urls.tsv", "out", "image_size=64", "url_col=u"]
    theirs = [
        "--url_list",
        "urls.tsv",
        "--output_folder=out",
        "--image-size",
        "64",
        "--url_col",
        "u",
    ]
    assert cli.split_words(ours) == cli.split_words(theirs)
    assert cli.split_words(["--skip_reencode", "--retries", "1"])["skip_reencode"] == "true"
    assert cli.split_words(["http=1.tsv", "./a=b.tsv"]) == {
        "http": "1.tsv",
        "url_list": "./a=b.tsv",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "b", "c"], "'c' is neither"),
        (["a", "--url_list", "b"], "'a' and --url_list 'b': give one"),
    ],
)
def test_words_too_many_are_named(words, said):
    with pytest.raises(RecipeError, match=said):
        cli.split_words(words)


def test_the_line_that_minigpt4_uses_is_understood():
    line = (
        "--url_list x.tsv --input_format tsv --url_col url --caption_col caption --output_format "
        "webdataset --output_folder out --processes_count 16 --thread_count 128 --image_size 256 "
        "--enable_wandb True"
    )
    config, notes = config_of(cli.split_words(line.split()))
    assert (config.processes, config.thread_count, config.image_size) == (16, 128, 256)
    assert len(notes) == 1


def test_help_names_every_option():
    for field in DownloadConfig.__dataclass_fields__:
        assert f"--{field}" in cli.EXAMPLES, field
    assert "enable_wandb" in UNUSED


def test_a_download_says_what_was_kept_and_why_the_rest_was_not(site, tmp_path, capsys):
    urls = [f"{site.url}/a.jpg", f"{site.url}/404", f"{site.url}/b.jpg"]
    (tmp_path / "in.txt").write_text("\n".join(urls))
    app = typer.Typer()
    app.command(context_settings=cli.FREE_OPTIONS, epilog=cli.EXAMPLES)(cli.download)
    command = typer.main.get_command(app)
    words = [str(tmp_path / "in.txt"), str(tmp_path / "out"), "--allow_private", "--enable_wandb",
             "True", "--processes_count", "1", "--thread_count", "2",
             "--timeout", "600", "--total_timeout", "600"]  # fmt: skip
    command.main(words, standalone_mode=False)
    said = capsys.readouterr()
    assert "Kept    2 of 3 rows (66.7 %)" in said.out
    assert "HTTP Error 404: Not Found     1  33.3 %" in said.out
    assert "note: --enable_wandb is without effect" in said.err
    command.main(words, standalone_mode=False)
    assert "Before  3 rows in 1 shards were there and stay" in capsys.readouterr().out
