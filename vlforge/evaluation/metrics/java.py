"""METEOR and SPICE, which are Java programs: run where Java and their files are.

METEOR 1.5 comes with pycocoevalcap (`pip install --no-deps pycocoevalcap`) or lies where
METEOR_JAR says. SPICE also needs CoreNLP 3.6.0's models, which its authors' script fetches:
SPICE_JAR names spice-1.0.jar with `lib/` beside it.

Source: Denkowski and Lavie 2014; Anderson et al. 2016; how salaniz/pycocoevalcap calls them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vlforge.evaluation.metrics.captions import Corpus
from vlforge.types import VLForgeError

_METEOR = "meteor/meteor-1.5.jar"
_SPICE = "spice/spice-1.0.jar"
_MODELS = "stanford-corenlp-3.6.0-models.jar"


def meteor_jar() -> Path | None:
    """Where METEOR can be run from; None without Java or without the file."""
    return _found("METEOR_JAR", _METEOR)


def spice_jar() -> Path | None:
    """Where SPICE can be run from; None without Java, its file or CoreNLP's models."""
    jar = _found("SPICE_JAR", _SPICE)
    return jar if jar is not None and (jar.parent / "lib" / _MODELS).is_file() else None


def _found(variable: str, inner: str) -> Path | None:
    if shutil.which("java") is None:
        return None
    package = importlib.util.find_spec("pycocoevalcap")
    places = [Path(os.environ[variable])] if os.environ.get(variable) else []
    if package is not None and package.submodule_search_locations:
        places += [Path(place) / inner for place in package.submodule_search_locations]
    return next((place for place in places if place.is_file()), None)


def meteor(hypotheses: Sequence[str], references: Sequence[Sequence[str]], jar: Path) -> Corpus:
    """METEOR of the corpus from its summed statistics, and of each caption.

    Raises:
        VLForgeError: the program fails; gives its last words.
    """
    words = [
        "java",
        "-Dfile.encoding=UTF-8",
        "-Xmx2G",
        "-jar",
        str(jar),
        "-",
        "-",
        "-stdio",
        "-l",
        "en",
        "-norm",
    ]
    asked = [_score_line(h, refs) for h, refs in zip(hypotheses, references, strict=True)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        encoding="utf-8", cwd=jar.parent,
    ) as program:  # fmt: skip
        assert program.stdin is not None
        assert program.stdout is not None
        statistics = []
        for line in asked:
            program.stdin.write(line + "\n")
            program.stdin.flush()
            statistics.append(program.stdout.readline().strip())
        program.stdin.write("EVAL ||| " + " ||| ".join(statistics) + "\n")
        program.stdin.flush()
        numbers = [program.stdout.readline().strip() for _ in range(len(asked) + 1)]
        program.stdin.close()
        try:
            values = list(map(float, numbers))
        except ValueError:
            assert program.stderr is not None
            last = (program.stderr.read().strip().splitlines() or ["it said nothing"])[-1]
            raise VLForgeError(f"{jar}: METEOR failed: {last}") from None
    return Corpus(values[-1], tuple(values[:-1]))


def _score_line(hypothesis: str, references: Sequence[str]) -> str:
    plain = hypothesis.replace("|||", "").replace("  ", " ")
    return " ||| ".join(("SCORE", " ||| ".join(references), plain))


def spice(hypotheses: Sequence[str], references: Sequence[Sequence[str]], jar: Path) -> Corpus:
    """SPICE's F of each caption, and their mean.

    Raises:
        VLForgeError: the program fails; gives its last words.
    """
    rows = [
        {"image_id": number, "test": hypothesis, "refs": list(refs)}
        for number, (hypothesis, refs) in enumerate(zip(hypotheses, references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as name:
        asked, told = Path(name) / "in.json", Path(name) / "out.json"
        asked.write_text(json.dumps(rows), encoding="utf-8")
        words = ["java", "-Xmx8G", "-jar", jar.name, str(asked), "-cache", name, "-out", str(told)]
        words += ["-subset", "-silent"]
        done = subprocess.run(words, cwd=jar.parent, capture_output=True, text=True, check=False)
        if done.returncode or not told.is_file():
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise VLForgeError(f"{jar}: SPICE failed: {last}")
        found = {row["image_id"]: row["scores"]["All"]["f"] for row in json.loads(told.read_text())}
    each = tuple(float(found[number] or 0.0) for number in range(len(rows)))
    return Corpus(sum(each) / len(each) if each else 0.0, each)
