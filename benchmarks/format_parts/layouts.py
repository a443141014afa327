"""Every format written the plain way, as the tools that own it write it."""

from __future__ import annotations

import base64
import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .made import Made, content, made_rows

Rows = Iterator[Made]
PER_SHARD = 10_000


def _array(to_row: Callable[[Made], Any]) -> Callable[[Path, Rows], None]:
    def write(path: Path, rows: Rows) -> None:
        with path.open("w", encoding="utf-8") as file:
            json.dump([to_row(row) for row in rows], file, ensure_ascii=False)

    return write


def _lines(to_row: Callable[[Made], Any]) -> Callable[[Path, Rows], None]:
    def write(path: Path, rows: Rows) -> None:
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(to_row(row), ensure_ascii=False) + "\n")

    return write


def dj_row(row: Made) -> dict[str, Any]:
    """Data-Juicer's."""
    text = f"<__dj__image>\n{row.caption} <|__dj__eoc|>"
    return {"id": row.number, "text": text, "images": [row.picture], "source": "made"}


def llava_row(row: Made) -> dict[str, Any]:
    """LLaVA's, two rounds."""
    said = [("human", f"<image>\n{row.question}"), ("gpt", row.answer)]
    said += [("human", "Is there more?"), ("gpt", row.caption)]
    turns = [{"from": name, "value": text} for name, text in said]
    return {"id": f"{row.number:09d}", "image": row.picture, "conversations": turns}


def sharegpt_row(row: Made) -> dict[str, Any]:
    """LLaMA-Factory's."""
    found = llava_row(row)
    return {"conversations": found["conversations"], "images": [found["image"]]}


def messages_row(row: Made) -> dict[str, Any]:
    """OpenAI's words, pictures beside them."""
    names = {"human": "user", "gpt": "assistant"}
    said = llava_row(row)["conversations"]
    turns = [{"role": names[turn["from"]], "content": turn["value"]} for turn in said]
    return {"messages": turns, "images": [row.picture]}


def alpaca_row(row: Made) -> dict[str, Any]:
    """Alpaca's."""
    asked = f"<image>\n{row.question}"
    return {"instruction": asked, "input": "", "output": row.answer, "images": [row.picture]}


def query_row(row: Made) -> dict[str, Any]:
    """ms-swift's."""
    before = [[f"<image>\n{row.question}", row.answer]]
    asked = {"query": "Is there more?", "response": row.caption}
    return {**asked, "history": before, "images": [row.picture]}


def chatml_row(row: Made) -> dict[str, Any]:
    """PaddleMIX's, with its picture."""
    rounds = [[row.question, row.answer]]
    image = base64.b64encode(content(row.number)).decode()
    return {"id": str(row.number), "conversations": rounds, "image": image}


def laion_row(row: Made) -> dict[str, Any]:
    """MiniGPT-4's lists of links."""
    return {"caption": row.caption, "url": f"https://pictures.example/{row.picture}"}


def mmc4_row(row: Made) -> dict[str, Any]:
    """A document of three sentences and a picture."""
    info = {"image_name": row.picture, "matched_text_index": 1, "matched_sim": 0.31}
    texts = [row.question, row.answer, row.caption]
    return {"url": "https://pages.example/1", "text_list": texts, "image_info": [info]}


def write_coco(path: Path, rows: Rows) -> None:
    """COCO captions, one a picture."""
    kept = list(rows)
    images = [{"id": r.number, "file_name": r.picture, "height": 64, "width": 64} for r in kept]
    said = [{"id": r.number, "image_id": r.number, "caption": r.caption} for r in kept]
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": said}), "utf-8")


def write_cc_sbu(path: Path, rows: Rows) -> None:
    """MiniGPT-4's second stage; the pictures themselves are not read."""
    (path / "image").mkdir(parents=True)
    said = [{"image_id": str(row.number), "caption": row.caption} for row in rows]
    (path / "filter_cap.json").write_text(json.dumps({"annotations": said}), "utf-8")


def write_csv(path: Path, rows: Rows) -> None:
    """Names of columns, then a row a picture."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "image", "caption", "source"])
        table.writerows([row.number, row.picture, row.caption, "made"] for row in rows)


def write_tsv(path: Path, rows: Rows) -> None:
    """`id`, picture in base64, caption."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            image = base64.b64encode(content(row.number)).decode()
            file.write(f"{row.number}\t{image}\t{row.caption}\n")


def write_tars(path: Path, rows: Rows) -> None:
    """Tars of jpg, json and txt."""
    path.mkdir()
    tar: tarfile.TarFile | None = None
    for row in rows:
        if row.number % PER_SHARD == 0:
            if tar is not None:
                tar.close()
            tar = tarfile.open(path / f"{row.number // PER_SHARD:05d}.tar", "w")  # noqa: SIM115
        key = f"{row.number // PER_SHARD:05d}{row.number % PER_SHARD:04d}"
        told = {"caption": row.caption, "url": row.picture, "key": key, "status": "success"}
        members = {"jpg": content(row.number), "json": json.dumps(told).encode()}
        for suffix, data in {**members, "txt": row.caption.encode()}.items():
            member = tarfile.TarInfo(f"{key}.{suffix}")
            member.size = len(data)
            assert tar is not None
            tar.addfile(member, io.BytesIO(data))
    if tar is not None:
        tar.close()


def write_img2dataset(path: Path, rows: Rows) -> None:
    """The same, with the table and the counts that stand beside each tar."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kept = list(rows)
    write_tars(path, iter(kept))
    for first in range(0, len(kept), PER_SHARD):
        told = [
            {"caption": row.caption, "url": row.picture, "status": "success", "error_message": None}
            for row in kept[first : first + PER_SHARD]
        ]
        name = path / f"{first // PER_SHARD:05d}"
        pq.write_table(pa.Table.from_pylist(told), f"{name}.parquet")
        stats = {"count": len(told), "successes": len(told), "status_dict": {"success": len(told)}}
        Path(f"{name}_stats.json").write_text(json.dumps(stats), "utf-8")


def write_parquet(path: Path, rows: Rows) -> None:
    """Pictures as `{bytes, path}`, as the hub has them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("id", pa.int64()), ("image", struct), ("caption", pa.string())])
    with pq.ParquetWriter(path, schema) as table:
        for chunk in _chunks(rows, 1000):
            table.write_table(pa.Table.from_pylist(chunk, schema))


def write_arrow(path: Path, rows: Rows) -> None:
    """A folder as `save_to_disk` leaves it."""
    import pyarrow as pa

    path.mkdir()
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("id", pa.int64()), ("image", struct), ("caption", pa.string())])
    name = "data-00000-of-00001.arrow"
    with pa.OSFile(str(path / name), "wb") as file, pa.ipc.new_stream(file, schema) as table:
        for chunk in _chunks(rows, 1000):
            table.write_table(pa.Table.from_pylist(chunk, schema))
    state = {
        "_data_files": [{"filename": name}], "_fingerprint": "0", "_split": None,
        "_format_columns": None, "_format_kwargs": {}, "_format_type": None,
        "_output_all_columns": False,
    }  # fmt: skip
    (path / "state.json").write_text(json.dumps(state), "utf-8")
    value = {"dtype": "string", "_type": "Value"}
    features = {"id": {**value, "dtype": "int64"}, "image": {"_type": "Image"}, "caption": value}
    (path / "dataset_info.json").write_text(json.dumps({"features": features}), "utf-8")


def _chunks(rows: Rows, size: int) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    for row in rows:
        image = {"bytes": content(row.number), "path": row.picture}
        chunk.append({"id": row.number, "image": image, "caption": row.caption})
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def write_folder(path: Path, rows: Rows) -> None:
    """Pictures with a txt each."""
    for row in rows:
        target = path / row.picture
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content(row.number))
        target.with_suffix(".txt").write_text(row.caption, "utf-8")


LAYOUTS: dict[str, tuple[str, Callable[[Path, Rows], None]]] = {
    "dj": ("rows.jsonl", _lines(dj_row)),
    "llava": ("rows.json", _array(llava_row)),
    "sharegpt": ("rows.json", _array(sharegpt_row)),
    "messages": ("rows.jsonl", _lines(messages_row)),
    "alpaca": ("rows.json", _array(alpaca_row)),
    "query_response": ("rows.jsonl", _lines(query_row)),
    "chatml_paddle": ("rows.json", _array(chatml_row)),
    "laion_json": ("rows.json", _array(laion_row)),
    "mmc4": ("rows.jsonl", _lines(mmc4_row)),
    "coco": ("captions.json", write_coco),
    "cc_sbu_align": ("cc_sbu_align", write_cc_sbu),
    "csv": ("rows.csv", write_csv),
    "tsv_base64": ("rows.tsv", write_tsv),
    "webdataset": ("shards", write_tars),
    "img2dataset": ("shards", write_img2dataset),
    "parquet": ("rows.parquet", write_parquet),
    "hf_dataset": ("dataset", write_arrow),
    "folder": ("pictures", write_folder),
}
"""Per format the name of the file or folder, and what writes it."""
FILES_PER_ROW = {"folder": 0.1}
"""Formats of which a part of the rows is made: two small files a row."""


def make(name: str, folder: Path, count: int) -> Path:
    """The dataset in one format below `folder`, made once."""
    rows = max(1, int(count * FILES_PER_ROW.get(name, 1)))
    target, write = LAYOUTS[name]
    home = folder / f"{name}_{rows}"
    if not (home / "done").exists():
        home.mkdir(parents=True, exist_ok=True)
        write(home / target, made_rows(rows))
        (home / "done").touch()
    return home / target
