"""Ad-caption files, good and damaged, and little models to ask about them."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from tests.inference.tiny import picture, tiny_folder
from vlforge.serving.predict.answering import Asking
from vlforge.serving.predict.rows import Source
from vlforge.serving.predict.run import Plan
from vlforge.types import Drawing

ASK = "what is the cat"


def encoded(number: int, kind: str = "PNG") -> bytes:
    """A picture of noise as a file."""
    buffer = io.BytesIO()
    picture(number, (24, 18)).save(buffer, kind)
    return buffer.getvalue()


def text_of(content: bytes) -> bytes:
    """The same in base64."""
    return base64.b64encode(content)


def write_tsv(path: Path, count: int) -> Path:
    """`id \\t base64`, a line each."""
    path.write_bytes(b"".join(b"ad%d\t%s\n" % (n, text_of(encoded(n))) for n in range(count)))
    return path


def model_in(folder: Path) -> Path:
    """A model whose answers differ from picture to picture."""
    return tiny_folder(folder / "model", "v1", positions=128)


def plan_of(folder: Path, source: Path, name: str = "out.tsv", **how) -> Plan:
    """Answers of at most six tokens; `how` are fields of the plan, its source or its asking."""
    read = {key: how.pop(key) for key in ("format", "images", "prompt") if key in how}
    asks = {key: how.pop(key) for key in tuple(how) if key in Asking.__dataclass_fields__}
    model = asks.pop("model", None) or str(folder / "model")
    asking = Asking(model, **({"drawing": Drawing(6), "batch": 4} | asks))
    told = Source(source, **({"prompt": ASK} | read))
    return Plan(told, folder / name, asking, **({"device": "cpu"} | how))
