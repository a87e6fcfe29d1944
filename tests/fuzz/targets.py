"""Make hostile inputs, each by a random generator, and say what is wrong with what comes of them.

A target gets a generator and an empty folder. It raises `InputError` where input is refused, and
`WrongResultError` where a result is wrong; anything else that it raises is a fault.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from apache_beam.io.filesystem import FileMetadata, MatchResult

from beam_gpte import (
    Block,
    DeduplicateExact,
    EmbedText,
    RejectDuplicateIds,
    SplitSentences,
    TextEncoder,
    WriteRejects,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.files import remote_model
from beam_gpte.sources.formats.rows import ColumnSelection
from beam_gpte.sources.match_files import match_files
from beam_gpte.sources.read_files import read_file
from tests.core.encoder import whole_model
from tests.examples import LengthEncoder, keep, kept
from tests.fuzz.mutate import mutate, name
from tests.fuzz.trial import Target, WrongResultError
from tests.matrix.types import KINDS, ROWS, array

MAX_ROW_BYTES = 1 << 20


def _values(rng: random.Random, count: int) -> list[dict[str, Any]]:
    texts = (
        "one cat",
        "",
        "é\u0301",
        'a "quoted" one',
        "a\ttab",
        "a, b",
        "x" * rng.choice((9, 9999)),
    )
    return [
        {"id": f"r{i}", "text": rng.choice(texts), "n": rng.choice((0, -1, 2**53, 2**63 - 1))}
        for i in range(count)
    ]


def _csv(rows: list[dict[str, Any]], separator: str) -> bytes:
    sink, options = io.BytesIO(), pyarrow.csv.WriteOptions(delimiter=separator)
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows), sink, options)
    return sink.getvalue()


def _parquet(rows: list[dict[str, Any]], rng: random.Random) -> bytes:
    sink = io.BytesIO()
    codec = rng.choice(("none", "zstd", "snappy", "gzip"))
    pq.write_table(pa.Table.from_pylist(rows), sink, compression=codec, row_group_size=7)
    return sink.getvalue()


PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def readers(rng: random.Random, folder: Path) -> None:
    """Read a damaged file of any format: every row once, good or as an error, in bounded memory."""
    rows = _values(rng, rng.randrange(40))
    kind = rng.choice(("jsonl", "csv", "tsv", "txt", "parquet"))
    lines = {
        "jsonl": lambda: "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "csv": lambda: _csv(rows, ",") if rows else b"id,text,n\n",
        "tsv": lambda: b"id\ttext\tn\n" + b"".join(f"{r['id']}\tx\t1\n".encode() for r in rows),
        "txt": lambda: "".join(f"{row['text'][:50]}\n" for row in rows).encode(),
        "parquet": lambda: _parquet(rows or _values(rng, 1), rng),
    }
    data = mutate(lines[kind](), rng)
    packing = "" if kind == "parquet" else rng.choice(tuple(PACK))
    data = PACK[packing](data)
    if packing:
        data = mutate(data, rng)
    path = folder / f"file.{kind}{packing}"
    path.write_bytes(data)
    id_column = None if kind == "txt" else rng.choice((None, "id"))
    columns = rng.choice((None, ("n",))) if kind != "txt" else None
    selection = ColumnSelection(columns, id_column, "text", max_row_bytes=MAX_ROW_BYTES)
    seen: set[int] = set()
    for part in read_file(str(path), selection, None, rng.choice((1, 7, 1024))):
        if len(part.numbers) != part.batch.num_rows:
            raise WrongResultError("numbers of rows do not go with the rows")
        for number in (*part.numbers, *(error.row for error in part.errors)):
            if number in seen or number < 1:
                raise WrongResultError(f"row {number} is there twice")
            seen.add(number)
        part.batch.validate(full=True)


def names(rng: random.Random, folder: Path) -> None:
    """Pass columns of any names through transforms and sinks: as they were, or refused."""
    count = 4
    columns: dict[str, Any] = {
        "id": [f"r{i}" for i in range(count)],
        "text": ["a text"] * count,
        "embedding": pa.array(
            np.eye(count, 3, dtype=np.float32).tolist(), pa.list_(pa.float32(), 3)
        ),
    }
    others = {name(rng) for _ in range(rng.randrange(4))} - columns.keys()
    columns |= {other: [f"{i} of {other!r}" for i in range(count)] for other in others}
    transforms: dict[str, Callable[[], beam.PTransform]] = {
        "embed": lambda: EmbedText(LengthEncoder()),
        "exact": lambda: DeduplicateExact(key_columns=("id",)),
        "unique": RejectDuplicateIds,
        "split": lambda: SplitSentences("en"),
        "parquet": lambda: WriteVectorsToParquet(str(folder / "out")),
        "duckdb": lambda: WriteVectorsToDuckDB(str(folder / "db")),
        "rejects": lambda: WriteRejects(str(folder / "rejects")),
    }
    chosen = rng.choice(tuple(transforms))
    with beam.Pipeline("FnApiRunner") as pipeline:
        table = pa.table(columns)
        rows: list[Any] = [table]
        if rng.random() < 0.5:
            rows = table.to_pylist()
        elif rng.random() < 0.5:
            rows = [Block.from_table(table)]
        source = pipeline | beam.Create(rows)
        if rng.random() < 0.5:
            source |= "Widen" >> beam.Map(_same, {}).with_output_types(object)
        found = source | transforms[chosen]()
        main = getattr(found, "kept", found)
        if chosen in ("embed", "exact", "unique", "split"):
            _ = main | "Keep" >> beam.Map(keep, str(folder), "result")
    if chosen in ("embed", "exact", "unique", "split"):
        _check_columns(kept(str(folder), "result"), columns, others)


def _same(row: Any, _: Any) -> Any:
    return row


def _check_columns(found: list[Any], columns: dict[str, Any], others: set[str]) -> None:
    for other in others:
        values = []
        for element in found:
            if isinstance(element, dict):
                values.append(element.get(other))
            else:
                batch = element.batch if isinstance(element, Block) else element
                values += batch.column(other).to_pylist() if other in batch.schema.names else [None]
        if sorted(map(str, values)) != sorted(map(str, columns[other])):
            raise WrongResultError(f"column {other!r} became {values!r:.200}")


@cache
def _model() -> tuple[Path, np.ndarray]:
    folder = Path(tempfile.mkdtemp()) / "model"
    whole_model.make(folder)
    return folder, TextEncoder.load(str(folder)).encode(["a cat sat", "two dogs"])


def _change_json(value: Any, rng: random.Random) -> Any:
    """Change a setting somewhere below."""
    odd = (
        None,
        True,
        -1,
        0,
        1,
        2**31,
        1e308,
        "",
        "x",
        "../x",
        "/etc/passwd",
        [],
        {},
        ["a"],
        "auto",
    )
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: _change_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], _change_json(value[at], rng), *value[at + 1 :]]
    return rng.choice(odd)


def models(rng: random.Random, folder: Path) -> None:
    """Load a model of which a file is damaged: refused, or vectors of the same model or another."""
    whole, expected = _model()
    model = folder / "model"
    shutil.copytree(whole, model)
    files = sorted(path for path in model.rglob("*") if path.is_file())
    path = rng.choice(files)
    kind = rng.randrange(4)
    if kind == 0:
        path.unlink()
    elif kind == 1 and path.suffix == ".json":
        path.write_text(json.dumps(_change_json(json.loads(path.read_text()), rng)))
    elif kind == 2:
        path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size + 1)])
    else:
        path.write_bytes(mutate(path.read_bytes(), rng))
    vectors = TextEncoder.load(str(model)).encode(["a cat sat", "two dogs"])
    if len(vectors) != len(expected) or not np.isfinite(vectors).all():
        raise WrongResultError(f"{path.name}: vectors {vectors.shape} that are no vectors")


def paths(rng: random.Random, folder: Path) -> None:
    """Match files of any names: each is read, or named; none is outside, none is missed."""
    root = folder / "in"
    root.mkdir()
    made = 0
    for _ in range(rng.randrange(1, 6)):
        raw = os.fsencode(name(rng).replace("\0", "")) or b"x"
        if rng.random() < 0.2:
            raw += bytes([rng.randrange(128, 256)])
        path = os.fsencode(root) + b"/" + raw.replace(b"/", b"_")[:200] + b".txt"
        kind = rng.randrange(6)
        try:
            if kind == 0:
                os.mkdir(path)
                continue
            if kind == 1:
                os.mkfifo(path)
            elif kind == 2:
                os.symlink(rng.choice((b"/nowhere", path, b"..")), path)
            else:
                with open(path, "xb") as file:
                    file.write(b"x\n")
        except FileExistsError:
            continue
        made += not os.path.basename(path).startswith((b".", b"_"))
    found = match_files([f"{root}/**"])
    if len(found) > made + 5:
        raise WrongResultError(f"{len(found)} of {made} files")
    for file in found:
        place = getattr(file, "path", "").strip("\0")
        if not place.startswith(str(root)):
            raise WrongResultError(f"{place!r} is outside")


class _Objects:
    """Stand in for `FileSystems`: objects by name, which may be any string."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents = contents

    def match(self, patterns: list[str]) -> list[MatchResult]:
        files = [FileMetadata(name, len(data), 1.0) for name, data in self.contents.items()]
        return [MatchResult(patterns[0], files)]

    def open(self, path: str, **_: Any) -> io.BytesIO:
        return io.BytesIO(self.contents[path])


def objects(rng: random.Random, folder: Path) -> None:
    """Fetch a model whose objects have any names: nothing is written outside its folder."""
    tempfile.tempdir = str(folder / "tmp")
    (folder / "tmp").mkdir()
    root = "mem://bucket/model"
    contents = {f"{root}/config.json": b"{}"}
    for _ in range(rng.randrange(4)):
        start = rng.choice((f"{root}/", f"{root}/a/", root, ""))
        contents[f"{start}{name(rng)}" or "x"] = b"x"
    remote_model.FileSystems = _Objects(contents)  # type: ignore[assignment, misc]
    before = sorted(path for path in folder.iterdir())
    try:
        model = remote_model.fetch_model(root)
    finally:
        tempfile.tempdir = None
        if sorted(path for path in folder.iterdir()) != before:
            raise WrongResultError("something is beside the temporary folder")
    here = [path for path in Path(str(model)).rglob("*") if path.is_file()]
    if any(not path.resolve().is_relative_to(Path(str(model)).resolve()) for path in here):
        raise WrongResultError("a file leads outside")


def _hostile(kind: pa.DataType, count: int, rng: random.Random) -> pa.Array:
    """Make an array of bytes of any kind: dates in the year 10^9, texts that are not UTF-8."""
    width = 0
    if pa.types.is_primitive(kind) or pa.types.is_decimal(kind):
        width = max(kind.bit_width // 8, 1)
    if width and not pa.types.is_boolean(kind):
        data = rng.choice((rng.randbytes(width * count), b"\xff" * width * count))
        return pa.Array.from_buffers(kind, count, [None, pa.py_buffer(data)])
    if kind in (pa.string(), pa.binary()):
        ends = sorted(rng.randrange(32) for _ in range(count + 1))
        offsets = pa.py_buffer(np.array(ends, np.int32).tobytes())
        data = bytes(rng.choice(b'ab\x80\xff\0\n"') for _ in range(32))
        return pa.Array.from_buffers(kind, count, [None, offsets, pa.py_buffer(data)])
    if pa.types.is_list(kind):
        ends = sorted(rng.randrange(count + 1) for _ in range(count + 1))
        offsets = pa.array(ends, pa.int32())
        return pa.ListArray.from_arrays(offsets, _hostile(kind.value_type, count, rng), kind)
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        parts = [_hostile(field.type, count, rng) for field in fields]
        return pa.StructArray.from_arrays(parts, fields=fields)
    if str(kind) not in KINDS:
        return pa.nulls(count, kind)
    return array(str(kind), [rng.choice((None, 0, ROWS - 1)) for _ in range(count)])


def rejects(rng: random.Random, folder: Path) -> None:
    """Write rejects of any values as JSON: a line each, which reads back, with its reason."""
    count = rng.randrange(1, ROWS + 1)
    columns: dict[str, Any] = {"reject_step": ["s"] * count, "reject_reason": ["r"] * count}
    for i in range(rng.randrange(1, 4)):
        kind = KINDS[rng.choice(tuple(KINDS))]
        columns[f"c{i}"] = _hostile(kind, count, rng)
    with beam.Pipeline("FnApiRunner") as pipeline:
        rows = pipeline | beam.Create([Block.from_pydict(columns)]).with_output_types(Block)
        _ = rows | WriteRejects(str(folder / "rejects"))
    lines = [
        json.loads(line)
        for path in (folder / "rejects").glob("*.jsonl")
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]
    ]
    if len(lines) != count or any(line["reject_reason"] != "r" for line in lines):
        raise WrongResultError(f"{len(lines)} of {count} rejects")


TARGETS: dict[str, Target] = {
    "readers": readers,
    "names": names,
    "models": models,
    "paths": paths,
    "objects": objects,
    "rejects": rejects,
}
PLACE = f"{__name__}:"
GUIDES = {
    "readers": ("beam_gpte.sources",),
    "names": ("beam_gpte.elements", "beam_gpte.sinks"),
    "models": ("beam_gpte.core.encoder", "beam_gpte.core.model_files"),
    "paths": ("beam_gpte.sources", "beam_gpte.files"),
    "objects": ("beam_gpte.files",),
    "rejects": ("beam_gpte.sinks", "beam_gpte.core.python_values"),
}
