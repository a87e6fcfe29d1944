"""Run syncs and compactions that are killed, beside processes that read and append.

documents --> write_sync --> a folder and a database, with their rows and no others
panes --> append_panes --> a folder, which `compact` makes into fewer files meanwhile
a folder --> read_states, read_panes --> a line for each read: what it has seen
"""

import json
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam

import beam_gpte
from beam_gpte.core.errors import InputError
from beam_gpte.sinks.final_names import Pane
from beam_gpte.sinks.write_parquet import commit_parquet
from beam_gpte.sources.read_vectors import read_vectors
from benchmarks.fault_runs import WORDS, drop
from tests.sinks.test_write_parquet import embedded, stage

DOCUMENTS, FILES, SHARDS = 60, 6, 4
ROWS_OF_PANE = 5
MIXED = "mixed"
REPLACED = "another run has replaced this file"  # a read that fails says so, and is repeated
NOT_YET = "no file matches"

Documents = dict[str, str]  # texts by id


# Functions that run in their own process


def write_sync(inbox: Path, output: Path, encoder: Any, keep: bool) -> None:
    """Make a folder and a database hold a corpus, as `beam-gpte embed --mode sync` does."""
    there = str(output) if any(output.glob("*.parquet")) else None
    replacing = beam_gpte.ReplaceOptions(keep_previous=keep)
    with beam.Pipeline("FnApiRunner") as pipeline:
        corpus = pipeline | beam_gpte.ReadCorpus(f"{inbox}/*", id_column="id")
        vectors = corpus | beam_gpte.EmbedText(encoder, reuse=there)
        vectors | beam_gpte.WriteVectorsToParquet(
            str(output), mode="sync", num_shards=SHARDS, replacing=replacing
        )
        vectors | beam_gpte.WriteVectorsToDuckDB(f"{output}.duckdb", mode="sync")


def compact(output: Path, keep: bool) -> None:
    """Put the small files of a folder together."""
    with beam.Pipeline("FnApiRunner") as pipeline:
        pipeline | beam_gpte.CompactVectors(str(output), keep_previous=keep)


def append_panes(output: Path, panes: Iterable[int], pause: float) -> None:
    """Append panes of one named run, as a stream does; what is committed is not added again."""
    for pane in panes:
        start = pane * ROWS_OF_PANE
        numbers = range(start, start + ROWS_OF_PANE)
        texts = pane_texts(numbers)
        block = embedded(numbers.start, numbers.stop, text=texts)
        staged, destination = stage(output, "parquet", [[block]], "stream")
        commit_parquet(staged, Pane("all", pane), destination, "append")
        time.sleep(pause)


def read_states(output: Path, states: dict[str, Documents], log: Path, stop: Path) -> None:
    """Read a folder in a loop; note which of some states each read has seen, or `MIXED`."""
    known = [(name, Counter(texts.items())) for name, texts in states.items()]
    for rows in _reads(output, stop):
        seen = Counter((row["id"], row["text"]) for row in rows)
        _note(log, next((name for name, state in known if state == seen), MIXED))


def read_panes(output: Path, log: Path, stop: Path) -> None:
    """Read a folder in a loop; note `MIXED` where a pane is in part there, twice, or gone."""
    before: set[int] = set()
    for rows in _reads(output, stop):
        seen = Counter(int(row["id"][1:]) // ROWS_OF_PANE for row in rows)
        distinct = len({row["id"] for row in rows}) == len(rows)
        is_whole = distinct and set(seen.values()) <= {ROWS_OF_PANE} and before <= seen.keys()
        _note(log, "whole" if is_whole else MIXED)
        before = set(seen)


def _reads(output: Path, stop: Path) -> Iterator[list[dict[str, Any]]]:
    """Read until there is a file `stop`; a read of what is replaced meanwhile is left out."""
    while not stop.exists():
        try:
            rows = [row for block in read_vectors(str(output)) for row in block.batch.to_pylist()]
        except InputError as error:
            if REPLACED not in str(error) and NOT_YET not in str(error):
                raise
            continue
        yield rows


def _note(log: Path, what: str) -> None:
    with log.open("a") as file:
        file.write(f"{what}\n")


# What they work on


def first_documents(rng: random.Random) -> Documents:
    """Make documents of some words each."""
    return {f"d{n:04}": _text(rng) for n in range(DOCUMENTS)}


def edited(documents: Documents, rng: random.Random) -> Documents:
    """Edit, delete and insert a tenth of the documents each."""
    tenth = DOCUMENTS // 10
    names = rng.sample(sorted(documents), 2 * tenth)
    new = {name: text for name, text in documents.items() if name not in names[tenth:]}
    new.update({name: _text(rng) for name in names[:tenth]})
    first = int(max(documents)[1:]) + 1
    new.update({f"d{n:04}": _text(rng) for n in range(first, first + tenth)})
    return new


def _text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=8))


def put(inbox: Path, documents: Documents) -> None:
    """Make a folder hold documents, in some files."""
    names = sorted(documents)
    files = {}
    for k in range(FILES):
        rows = [{"id": name, "text": documents[name]} for name in names[k::FILES]]
        files[f"f{k}.jsonl"] = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    drop(inbox, files)


def pane_texts(numbers: range) -> Any:
    """Make the texts of the rows of a pane."""
    return beam_gpte.Block.from_pydict({"text": [f"text {n}" for n in numbers]}).column("text")
