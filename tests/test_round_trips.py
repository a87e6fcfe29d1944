"""Any rows go through files, transforms and sinks: none is lost, and no value or type changes."""

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from beam_gpte import (
    BitextOutput,
    Block,
    Deduplicate,
    DeduplicateExact,
    DeduplicateLexical,
    DeduplicateSemantic,
    EmbedText,
    MineBitext,
    ReadCorpus,
    ScoreBitext,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.core.errors import InputError
from beam_gpte.sinks.commit import WHOLE
from beam_gpte.sinks.duckdb_table import Table
from beam_gpte.sinks.write_duckdb import commit_duckdb
from beam_gpte.sinks.write_parquet import commit_parquet
from beam_gpte.sources.read_vectors import read_vectors
from tests import nasty_rows
from tests.nasty_rows import NUMBER, exact, rows_of, tables
from tests.sinks.test_write_parquet import stage

TIMES = settings().max_examples // 100  # 1, or more with --hypothesis-profile=long

SEEN: list[tuple[str, pa.Table]] = []  # what a pipeline in this process gave, by name


def see(element: Any, name: str) -> None:
    SEEN.append((name, pa.Table.from_batches([element.batch])))


def run(build: Callable[[beam.Pipeline], dict[str, beam.PCollection]]) -> dict[str, list[pa.Table]]:
    """Run a pipeline, and return the rows of each collection that `build` names."""
    SEEN.clear()
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        named = build(pipeline)
        for name, collection in named.items():
            _ = collection | f"See {name}" >> beam.Map(see, name)
    return {name: [table for other, table in SEEN if other == name] for name in named}


def examples(number: int) -> settings:
    return settings(
        max_examples=number * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # shrinking takes minutes
    )


def write_jsonl(table: pa.Table, path: Path) -> pa.Table:
    lines = [json.dumps(row, ensure_ascii=row[NUMBER] % 2 == 0) for row in table.to_pylist()]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="")
    return table


def write_csv(table: pa.Table, path: Path) -> pa.Table:
    def quoted(value: Any) -> str:
        return "" if value is None else '"' + str(value).replace('"', '""') + '"'

    rows = [table.column_names, *(row.values() for row in table.to_pylist())]
    lines = [",".join(map(quoted, row)) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8", newline="")
    place = table.column_names.index(NUMBER)
    return table.set_column(place, NUMBER, table[NUMBER].cast(pa.string()))


def write_tsv(table: pa.Table, path: Path) -> pa.Table:
    """Write what TSV can hold: no tab, no line end, and nothing that differs from null as ""."""

    def plain(value: Any) -> str:
        return str("" if value is None else value).translate({9: " ", 10: " ", 13: " "})

    rows = [[plain(value) for value in row.values()] for row in table.to_pylist()]
    names = [plain(name) for name in table.column_names]
    lines = ["\t".join(row) + "\n" for row in [names, *rows]]
    path.write_text("".join(lines), encoding="utf-8-sig", newline="")
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    held = [pa.array([value or None for value in column], pa.string()) for column in columns]
    return pa.table(dict(zip(names, held, strict=True)))


def write_parquet(table: pa.Table, path: Path) -> pa.Table:
    pq.write_table(table, path, row_group_size=3)
    return table


# without lists of fixed size: null ones in files of others are an error of pyarrow's
IN_FILES = [
    (kind, values)
    for kind, values in nasty_rows.IN_PARQUET
    if not pa.types.is_fixed_size_list(kind)
]
FORMATS = {
    "parquet": (write_parquet, IN_FILES, nasty_rows.IDS),
    "jsonl": (write_jsonl, nasty_rows.IN_JSON, nasty_rows.IDS),
    "csv": (write_csv, nasty_rows.AS_TEXT, nasty_rows.AS_TEXT),
    "tsv": (write_tsv, nasty_rows.AS_TEXT, nasty_rows.AS_TEXT),
}
FILES = st.fixed_dictionaries(
    {
        kind: tables(kinds, ids, names=[*nasty_rows.NAMES, *nasty_rows.ODD])
        for kind, (_, kinds, ids) in FORMATS.items()
    }
)


@examples(12)
@given(FILES, st.integers(1, 5))
def test_a_file_of_any_format_is_read_as_it_was_written(
    files: dict[str, pa.Table], rows_per_block: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = {
            kind: FORMATS[kind][0](table, Path(folder, f"rows.{kind}"))
            for kind, table in files.items()
        }

        def build(pipeline: beam.Pipeline) -> dict[str, beam.PCollection]:
            found = {}
            for kind in files:
                path = f"{folder}/rows.{kind}"
                read = ReadCorpus(path, id_column="id", rows_per_block=rows_per_block)
                found[kind], found[f"bad {kind}"] = (
                    pipeline | kind >> read.with_exception_handling()
                )
            return found

        found = run(build)
    for kind, table in written.items():
        good, bad = rows_of(found[kind]), rows_of(found[f"bad {kind}"])
        assert good.keys().isdisjoint(bad)
        reasons = {row.pop("reject_reason")[1].split(":")[0] for row in bad.values()}
        assert reasons <= {"id is null", "duplicate id"}
        for row in bad.values():
            row.pop("reject_step")
        expected = rows_of([table])
        assert good | bad == expected
        ids = [row["id"] for row in good.values()]
        known = {row["id"] for row in expected.values()} - {exact(None)}
        assert len(ids) == len(set(ids))
        assert set(ids) == known


class SpellingEncoder:
    """Embed texts that begin alike as near vectors: no vector is zero, and none is another's."""

    fingerprint = "spelling-1"

    def encode(self, texts: list[str]) -> np.ndarray:
        starts = np.stack([_random(text.strip()[:1].casefold()) for text in texts])
        return starts + np.stack([_random(text) for text in texts]) / 64


def _random(text: str) -> np.ndarray:
    digest = hashlib.shake_256(text.encode()).digest(8 * 4)
    return (np.frombuffer(digest, np.uint32) / 2**31 - 1).astype(np.float32)


# What is left out is refused at times; see below.
IN_BOTH = [(kind, values) for kind, values in IN_FILES if not pa.types.is_decimal256(kind)]
RENAME = {name: f"our {name}" for name in ("duplicate_of", "score", "found_by")}
BAD_TEXTS = {"text is null", "text is empty", "text is blank"}
BAD_IDS = {"id is null", "duplicate id"}


def without_vectors(tables: list[pa.Table]) -> dict[int, dict[str, Any]]:
    """Return rows, after checking that each has the vector of its text."""
    for table in tables:
        for text, vector in zip(
            *(table[c].to_pylist() for c in ("text", "embedding")), strict=True
        ):
            assert vector == SpellingEncoder().encode([text])[0].tolist()
    return rows_of([table.drop_columns(["embedding"]) for table in tables])


def only(rows: dict[int, dict], *names: str) -> dict[int, dict]:
    """Take columns out of the rows, and return them alone."""
    return {number: {name: row.pop(name) for name in names} for number, row in rows.items()}


@examples(4)
@given(tables(IN_BOTH, max_rows=20), tables(IN_BOTH, max_rows=20), st.data())
def test_no_row_is_lost_or_changed_from_file_to_sink(
    source: pa.Table, target: pa.Table, data: st.DataObject
) -> None:
    words = [name for name in source.column_names if source[name].type == pa.string()]
    partitions = data.draw(st.sets(st.sampled_from([*words, NUMBER]), max_size=2))
    partitions = sorted(partitions - {"text", "id"})
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(source, f"{folder}/source.parquet")
        pq.write_table(target, f"{folder}/target.parquet")

        def build(pipeline: beam.Pipeline) -> dict[str, beam.PCollection]:
            found, sides = {}, {}
            for side in ("source", "target"):
                read = ReadCorpus(f"{folder}/{side}.parquet", id_column="id", rows_per_block=4)
                rows, bad = pipeline | f"Read {side}" >> read.with_exception_handling()
                embed = EmbedText(SpellingEncoder()).with_exception_handling()
                sides[side], found[f"{side} without text"] = rows | f"Embed {side}" >> embed
                found[f"{side} unread"] = bad
            steps = (DeduplicateExact(), DeduplicateLexical(0.5), DeduplicateSemantic(0.99))
            unique = sides["source"] | Deduplicate(steps, rename=RENAME).with_exception_handling()
            _ = unique.kept | WriteVectorsToParquet(f"{folder}/kept", partition_by=partitions)
            _ = unique.kept | WriteVectorsToDuckDB(f"{folder}/kept.duckdb")
            sides["source"] = unique.kept
            mined = sides | MineBitext(threshold=-9.0, output=BitextOutput(max_length_ratio=None))
            pairs = mined.pairs | beam.Map(_ids_of_pairs).with_output_types(Block)
            scored = {"pairs": pairs, **sides} | ScoreBitext()
            return found | {
                **{f"{side} embedded": rows for side, rows in sides.items()},
                "removed": unique.removed,
                "not deduplicated": unique.rejects,
                "pairs": mined.pairs,
                "scored": scored.pairs,
            }

        found = run(build)
        kept_in = (
            {
                "parquet": [block.batch for block in read_vectors(f"{folder}/kept")],
                "duckdb": [block.batch for block in read_vectors(f"{folder}/kept.duckdb")],
            }
            if found["source embedded"]
            else {}
        )
    expected = {"source": rows_of([source]), "target": rows_of([target])}
    kept = {side: without_vectors(found[f"{side} embedded"]) for side in expected}
    removed = without_vectors(found["removed"])
    named = only(removed, *RENAME.values())
    ids = {row["id"] for row in kept["source"].values()}
    assert {row["our duplicate_of"] for row in named.values()} <= ids
    assert found["not deduplicated"] == []
    for side, rows in expected.items():
        bad = rows_of(found[f"{side} without text"] + found[f"{side} unread"])
        reasons = {
            why["reject_reason"][1].split(":")[0]
            for why in only(bad, "reject_step", "reject_reason").values()
        }
        assert reasons <= BAD_TEXTS | BAD_IDS
        parts = [kept[side], bad, *([removed] if side == "source" else [])]
        assert sum(map(len, parts)) == len(rows)
        assert {number: row for part in parts for number, row in part.items()} == rows
    for batches in kept_in.values():
        assert (
            without_vectors([pa.Table.from_batches([batch]) for batch in batches]) == kept["source"]
        )
    check_pairs(found, kept)


def _ids_of_pairs(block: Block) -> Block:
    return Block(block.batch.select(["source_id", "target_id"]))


def check_pairs(found: dict[str, list[pa.Table]], kept: dict[str, dict[int, dict]]) -> None:
    pairs, scored = (
        [row for table in found[name] for row in table.to_pylist()] for name in ("pairs", "scored")
    )
    for side, rows in kept.items():
        by_id = {row["id"]: row for row in rows.values()}
        for pair in pairs + scored:
            row = by_id[exact(pair[f"{side}_id"])]
            attached = {
                name: exact(pair[f"{side}_{name}"]) for name in row if f"{side}_{name}" in pair
            }
            assert attached == row
    numbers = [
        {(row["source_id"], row["target_id"]): round(row["margin"], 4) for row in rows}
        for rows in (pairs, scored)
    ]
    assert numbers[0] == numbers[1]
    assert len(numbers[0]) == len(pairs) == len(scored)


@examples(30)
@given(
    tables(nasty_rows.IN_PARQUET, names=[*nasty_rows.NAMES, *nasty_rows.ODD], max_rows=6),
    st.integers(1, 6),
)
def test_a_sink_holds_every_value_or_refuses_the_column(table: pa.Table, rows: int) -> None:
    given_ids = [row["id"] for row in table.to_pylist()]
    first = [i for i, id_ in enumerate(given_ids) if id_ is not None and id_ not in given_ids[:i]]
    unique = pa.Table.from_batches(
        [Block.from_table(table).batch.take(pa.array(first, pa.int64()))]
    )
    blocks = [Block(batch) for batch in unique.to_batches(max_chunksize=rows) if len(batch)]
    expected = rows_of([unique])
    if not blocks:
        return
    for sink in (write_to_parquet, write_to_duckdb):
        with tempfile.TemporaryDirectory() as folder:
            write = held_or_refused if may_be_refused(table) else held
            found = write(sink, blocks, Path(folder))
        assert found is None or rows_of(found) == expected


def may_be_refused(table: pa.Table) -> bool:
    """Whether a sink has no type for the values, or takes two names for one."""
    kinds = table.schema.types
    lower = {name.lower() for name in table.column_names}
    return (
        len(lower) < len(kinds)
        or bool(lower & {"x\0y", ""})
        or any(pa.types.is_decimal256(kind) or pa.types.is_fixed_size_list(kind) for kind in kinds)
    )


def held(sink: Callable, blocks: list[Block], folder: Path) -> list[pa.Table] | None:
    return sink(blocks, folder)


def held_or_refused(sink: Callable, blocks: list[Block], folder: Path) -> list[pa.Table] | None:
    """Write blocks; None if the sink refuses a column by its name."""
    try:
        return sink(blocks, folder)
    except InputError as error:
        if any(repr(name) in str(error) for name in blocks[0].schema.names):
            return None
        raise


def write_to_parquet(blocks: list[Block], folder: Path) -> list[pa.Table]:
    staged, destination = stage(folder, "parquet", [blocks[::2], blocks[1::2]])
    written = commit_parquet(staged, WHOLE, destination, "replace")
    read = [pq.read_table(file.path, partitioning=None) for file in written]
    again = [pa.Table.from_batches([block.batch]) for block in read_vectors(str(folder))]
    assert rows_of(again) == rows_of(read)
    return read


def write_to_duckdb(blocks: list[Block], folder: Path) -> list[pa.Table]:
    staged, destination = stage(folder, "duckdb", [blocks[::2], blocks[1::2]])
    path = str(folder / "rows.duckdb")
    commit_duckdb(staged, WHOLE, destination, Table(path, "rows", "id", "upsert"))
    return [pa.Table.from_batches([block.batch]) for block in read_vectors(path, "rows")]
