"""Whether a script is plain `sh`: the contest runs run.sh by a shell that is no bash."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

_BASHISMS = (
    (r"(^|[\s;&|(])\[\[(\s|$)", "[[ … ]]", "[ … ]"),
    (r"(^|[\s;])function\s+\w+", "function NAME", "NAME()"),
    (r"(^|[\s;&|])source\s", "source FILE", ". FILE"),
    (r"\[\s[^\]]*\s==\s", "== in [ … ]", "="),
    (r"&>", "&> FILE", "> FILE 2>&1"),
    (r"<<<", "<<< WORD", "printf … |"),
    (r"\$\{\w+(\^\^?|,,?|/|:\d)", "${NAME/…}, ${NAME:1}, ${NAME^^}", "sed, cut or tr"),
    (r"\$\{\w+\[|(^|[\s;])\w+=\(", "an array", "set -- WORDS"),
    (r"(^|[\s;])(declare|typeset|let|pushd|popd|shopt)\s", "a word of bash", "plain assignments"),
    (r"[<>]\(", "<( … )", "a temporary file"),
    (r"\{\d+\.\.\d+\}", "{1..9}", "a list of words"),
    (r"set\s+-\w*\s*o?\s*pipefail|set\s+-o\s+pipefail", "pipefail", "set -e"),
)
_QUOTED = re.compile(r"'[^']*'")
_COMMENT = re.compile(r"(^|\s)#.*$")


def faults_of(script: Path) -> list[str]:
    """What is no plain `sh` in a script, a line each with its place and the remedy."""
    try:
        text = script.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return [f"{script}: cannot be read ({error})"]
    found = []
    if "\r" in text:
        found.append(f"{script.name}: lines end with CR LF; write it with LF alone")
    for number, line in enumerate(text.splitlines(), 1):
        # What stands in quotes is no word of the shell, and a comment is none either.
        bare = _COMMENT.sub("", _QUOTED.sub("''", line)) if number > 1 or line[:2] != "#!" else ""
        for pattern, what, instead in _BASHISMS:
            if re.search(pattern, bare):
                found.append(f"{script.name}:{number}: {what} is bash; write {instead}")
    return found + _refused(script)


def _refused(script: Path) -> list[str]:
    """What a shell that is here says of the grammar."""
    shell = shutil.which("dash") or shutil.which("sh")
    if shell is None:
        return []
    done = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, timeout=300)
    said = " ".join(done.stderr.split())
    return [f"{script.name}: {Path(shell).name} cannot read it ({said})"] if done.returncode else []
