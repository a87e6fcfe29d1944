"""Write the inputs of `benchmarks/dry_run.py`, and name the commands that read them."""

import dataclasses
import gzip
import json
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_gpte.cli.programs.extract_docstrings import docstrings
from benchmarks.dry_run_models import tiny

COLUMNS = 40  # of the wide corpus, besides id and text
LONG = 3000  # characters of a long text
LARGE = 400  # characters beside a text of a large file


def rows_of(count: int) -> list[dict[str, str]]:
    found = sorted(docstrings(Path(sysconfig.get_path("stdlib"))), key=lambda row: hash_of(row))
    rows = []
    for i in range(count):
        row, again = found[i % len(found)], i // len(found)
        text = f"{again}. {row['text']}" if again else row["text"]
        rows.append({"id": f"r{i}", "text": text})
    return rows


def hash_of(row: dict[str, str]) -> int:
    return sum(map(ord, row["text"])) * 7919 % 1_000_003


def write_lines(path: Path, rows: list[dict[str, str]]) -> Path:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def first_lines(count: int) -> list[dict[str, str]]:
    return [{**row, "text": row["text"].split("\n")[0]} for row in rows_of(count)]


def short(folder: Path, count: int) -> Path:
    return write_lines(folder / "short.jsonl", first_lines(count))


def large(folder: Path, count: int) -> Path:
    """Write many bytes a row: 150,000 rows are more than 64 MiB."""
    notes = [(row["text"] * LARGE)[:LARGE] for row in rows_of(count)]
    rows = [{**row, "note": note} for row, note in zip(first_lines(count), notes, strict=True)]
    return write_lines(folder / "large.jsonl", rows)


def long(folder: Path, count: int) -> Path:
    rows, texts = rows_of(count), [row["text"] for row in rows_of(4 * count)]
    for i, row in enumerate(rows):
        row["text"] = "\n".join(texts[i::count])[:LONG]
    return write_lines(folder / "long.jsonl", sorted(rows, key=lambda row: len(row["text"])))


def packed(folder: Path, count: int) -> Path:
    return write_lines(folder / "packed.jsonl.gz", rows_of(count))


def wide(folder: Path, count: int) -> Path:
    table, random = pa.Table.from_pylist(rows_of(count)), np.random.default_rng(0)
    for i in range(COLUMNS):
        table = table.append_column(f"n{i}", pa.array(random.standard_normal(count)))
    pq.write_table(table, folder / "wide.parquet")
    return folder / "wide.parquet"


def vectors(folder: Path, count: int) -> Path:
    """Vectors around centers, one in ten near to another."""
    random = np.random.default_rng(0)
    centers = random.standard_normal((100, 384))
    found = centers[random.integers(0, 100, count)] + random.standard_normal((count, 384))
    twice = random.integers(0, count, count // 10)
    found[: len(twice)] = found[twice] + 0.1 * random.standard_normal((len(twice), 384))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    flat = pa.array(found.astype(np.float32).reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, 384)
    table = pa.Table.from_pylist(rows_of(count)).append_column("embedding", column)
    pq.write_table(table, folder / "vectors.parquet")
    return folder / "vectors.parquet"


CORPORA: dict[str, Callable[[Path, int], Path]] = {
    "short": short,
    "large": large,
    "long": long,
    "packed": packed,
    "wide": wide,
    "vectors": vectors,
}


def sides(folder: Path, count: int) -> list[str]:
    """Write two sides, half of whose rows belong together."""
    texts = [row["text"].split("\n")[0] for row in rows_of(2 * count)]
    for name in ("source", "target"):
        rows = []
        for i in range(count):
            is_pair = name == "source" or i % 2
            text = texts[i] if is_pair else texts[count + i]
            rows.append({"id": f"{name}{i}", "text": text if name == "source" else f"{text} (T)"})
        write_lines(folder / f"{name}.jsonl", rows)
    return [f"--source={folder}/source.jsonl", f"--target={folder}/target.jsonl"]


@dataclasses.dataclass(frozen=True)
class Case:
    """Describe a command that is compared.

    Attributes:
      command: without its output.
      rows: of its input.
      before: a command that runs first, into `previous`.
      previous: a folder of vectors.
      is_start: whether the output begins as a copy of it.
    """

    command: list[str]
    rows: int
    before: list[str] | None = None
    previous: Path | None = None
    is_start: bool = False


def embed(path: Path, model: str, *more: str) -> list[str]:
    return ["embed", "--input", str(path), "--id_column", "id", "--model", model, *more]


def of_corpus(program: str, corpus: str) -> "Write":
    """Read one corpus."""

    def write(folder: Path, rows: int, model: str) -> Case:
        path = CORPORA[corpus](folder, rows)
        command = [program, *embed(path, model)[1:]]
        if corpus == "vectors":
            command[-2:] = ["--by", "semantic"]
        return Case(command, rows)

    return write


def mine(folder: Path, rows: int, model: str) -> Case:
    return Case(["mine", *sides(folder, rows), "--id_column", "id", "--model", model], rows)


def stream(folder: Path, rows: int, model: str) -> Case:
    return Case(["stream", *embed(short(folder, rows), model)[1:]], rows)


def chunks(folder: Path, rows: int, model: str) -> Case:
    more = "--long_text", "chunks", "--chunk_tokens", "128"
    return Case(embed(long(folder, rows), model, *more), rows)


def reuse(share: float) -> "Write":
    """Embed first lines of which a previous run has a share."""

    def write(folder: Path, rows: int, model: str) -> Case:
        found, previous = first_lines(rows), folder / "previous"
        known = write_lines(folder / "known.jsonl", _spread(found, share))
        command = embed(write_lines(folder / "all.jsonl", found), model, "--reuse", str(previous))
        return Case(command, rows, embed(known, model), previous)

    return write


def sync(share: float) -> "Write":
    """Sync an output that has a share of the rows; of the rest half are new, half have changed."""

    def write(folder: Path, rows: int, model: str) -> Case:
        found, previous = first_lines(rows), folder / "previous"
        same = _spread(found, share)
        ids = {row["id"] for row in same}
        changed = [row for row in found if row["id"] not in ids]
        others = [{**row, "text": f"{row['text']} before"} for row in changed]
        gone = [{**row, "id": f"gone {row['id']}"} for row in others[1::2]]
        known = write_lines(folder / "known.jsonl", [*same, *others[::2], *gone])
        command = embed(write_lines(folder / "all.jsonl", found), model, "--mode", "sync")
        return Case(command, rows, embed(known, model), previous, True)

    return write


def _spread(rows: list[dict[str, str]], share: float) -> list[dict[str, str]]:
    return [row for i, row in enumerate(rows) if int((i + 1) * share) > int(i * share)]


def on_tiny(write: "Write") -> "Write":
    """Use a model that costs next to nothing."""
    return lambda folder, rows, model: write(folder, rows, tiny(folder, model))


Write = Callable[[Path, int, str], Case]
CASES: dict[str, Write] = {
    **{f"embed, {name}": of_corpus("embed", name) for name in CORPORA if name != "vectors"},
    **{f"dedup, {name}": of_corpus("dedup", name) for name in CORPORA},
    "mine, pairs": mine,
    "stream": stream,
    "chunks": chunks,
    "reuse, most": reuse(0.95),
    "reuse, half": reuse(0.5),
    "sync": sync(0.9),
    "reuse, most, tiny": on_tiny(reuse(0.95)),
    "reuse, half, tiny": on_tiny(reuse(0.5)),
    "sync, tiny": on_tiny(sync(0.9)),
    "sync, all as before, tiny": on_tiny(sync(1.0)),
    "embed, short, tiny": on_tiny(of_corpus("embed", "short")),
    "embed, large, tiny": on_tiny(of_corpus("embed", "large")),
    "stream, tiny": on_tiny(stream),
}
