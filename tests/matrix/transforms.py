"""List how each public transform is applied to the inputs of a cell, and what its outputs are."""

import dataclasses
import functools
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import apache_beam as beam
import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import beam_gpte as bg
from beam_gpte.elements.block import hidden_block
from beam_gpte.sources.read_vectors import read_vectors
from tests.core.static.models import bert, static_embedding, token_vectors
from tests.examples import WordEncoder
from tests.matrix.inputs import (
    GROUPS,
    ID,
    ORDER,
    PAIR_ID,
    PAYLOAD,
    SCOPE,
    SIDES,
    TEXT,
    visible,
)

Inputs = Mapping[str, list[pa.Table]]
Outputs = dict[str, beam.PCollection]
Apply = Callable[[beam.Pipeline, Inputs, str], Outputs]  # the last is a folder for files


@dataclasses.dataclass(frozen=True)
class Case:
    """Say how a transform is applied.

    Attributes:
      transform: its public name.
      apply: makes the outputs of the inputs.
      roles: of the columns that it reads, or passes through.
      rows: outputs in one of which each row of the input comes once; none if they are not rows.
      repeats: whether a row may come more often.
      pairs: columns of a third input that name rows of both sides; none if there is one input.
      name_of_pairs: the name of that input.
      sides: whether there are two sides; True with `pairs`.
      changed: columns of rows that get new values.
      read: reads files after the run: the name of an output, and its rows.
      stored: files hold the values, maybe as another type.
      halves: only the first half of the rows are in the outputs.
      variant: tells the cases of one transform apart.
    """

    transform: str
    apply: Apply
    roles: tuple[str, ...]
    rows: tuple[str, ...] = ("good", "rejects")
    repeats: bool = False
    pairs: tuple[str, ...] = ()
    name_of_pairs: str = "pairs"
    sides: bool = False
    changed: tuple[str, ...] = ()
    read: Callable[[str], dict[str, list[pa.Table]]] | None = None
    stored: bool = False
    halves: bool = False
    variant: str = ""

    def __str__(self) -> str:
        return f"{self.transform} {self.variant}".strip()


def create(p: beam.Pipeline, tables: list[pa.Table], label: str = "rows") -> beam.PCollection:
    """Make a collection of tables."""
    return p | label >> beam.Create(tables, reshuffle=False).with_output_types(pa.Table)


def _of_rows(make: Callable[[], Any]) -> Apply:
    def apply(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
        good, rejects = create(p, inputs["rows"]) | make().with_exception_handling()
        return {"good": good, "rejects": rejects}

    return apply


def _deduplicated(make: Callable[..., Any], reference: bool = False) -> Apply:
    def apply(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
        tables, given = inputs["rows"], {}
        if reference:
            firsts = [sum(n < GROUPS for n in table["n"].to_pylist()) for table in tables]
            split = list(zip(tables, firsts, strict=True))
            others = [table.slice(first) for table, first in split if first < len(table)]
            given = {"reference": create(p, others, "reference")}
            tables = [table.slice(0, first) for table, first in split if first]
        found = create(p, tables) | make(**given).with_exception_handling()
        return {name: getattr(found, name) for name in ("kept", "removed", "pairs", "rejects")}

    return apply


def _signed(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
    good, rejects = create(p, inputs["rows"]) | bg.SignTexts("lang").with_exception_handling()
    return {"good": good, "rejects": rejects}


def _spans_cut(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
    cut = bg.CutRepeatedSpans("sentences", scope="lang").with_exception_handling()
    found = create(p, inputs["rows"]) | cut
    return {name: getattr(found, name) for name in ("good", "emptied", "cut", "rejects")}


def _annotated(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
    step = bg.DeduplicateExact(scope="lang")
    deduplicate = bg.Deduplicate((step,), annotate=True).with_exception_handling()
    found = create(p, inputs["rows"]) | deduplicate
    return {name: getattr(found, name) for name in ("annotated", "rejects")}


def _decontaminated(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
    items = [
        {"id": 1, "benchmark": "b", "text": "dog ran"},
        {"id": 2, "benchmark": "b", "text": "a"},
    ]
    corpus = create(p, inputs["rows"])
    options = bg.Contamination(min_words=1)
    transform = bg.Decontaminate(ngrams=2, contamination=options).with_exception_handling()
    found = {"corpus": corpus, "benchmarks": p | "items" >> beam.Create(items)} | transform
    return {name: getattr(found, name) for name in ("kept", "removed", "rejects")}


def _of_sides(make: Callable[[], Any], names: tuple[str, ...], *inputs_named: str) -> Apply:
    def apply(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
        collections = {
            name: create(p, tables, name)
            for name, tables in zip(inputs_named or SIDES, inputs.values(), strict=True)
        }
        found = collections | make().with_exception_handling()
        found = found._asdict()
        return {name: found[name] for name in names}

    return apply


def _fit_head(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
    """Fit a head to the rows, and apply it to them."""
    rows, others = create(p, inputs["rows"]), create(p, visible(inputs["rows"]), "visible")
    head = rows | bg.FitHead("n", "regression")
    good, rejects = others | bg.ApplyHead(head, "predicted").with_exception_handling()
    return {"good": good, "rejects": rejects}


def _distilled(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
    """Make a static model of the rows, and embed them with its teacher."""
    tokenizer, rows = bert(), create(p, inputs["rows"])
    others = create(p, visible(inputs["rows"]), "visible")
    model = static_embedding(Path(folder) / "tokenizer", tokenizer, token_vectors(tokenizer, 4))
    settings = {"dim": 4, "tokenizer": model, "columns": bg.Columns(embedding="v")}
    _ = rows | bg.DistillStatic(WordEncoder(), f"{folder}/static", **settings)
    embed = bg.EmbedText(WordEncoder(), embedding_column="v").with_exception_handling()
    good, rejects = others | embed
    return {"good": good, "rejects": rejects}


def _apply_head(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
    rows, others = create(p, inputs["rows"]), create(p, visible(inputs["rows"]), "visible")
    head = others | bg.FitHead("n", "regression")
    good, rejects = rows | bg.ApplyHead(head, "predicted").with_exception_handling()
    return {"good": good, "rejects": rejects}


def _mapped(fits: bool) -> Apply:
    """Give the inputs to both transforms; hidden columns to one of them."""

    def apply(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
        rows, others = create(p, inputs["rows"]), create(p, visible(inputs["rows"]), "visible")
        fitted, mapped = (rows, others) if fits else (others, rows)
        vector_map = {"source": fitted, "target": fitted} | bg.FitVectorMap()
        apply_map = bg.ApplyVectorMap(vector_map).with_exception_handling()
        good, rejects = mapped | apply_map
        # which rows are fitted follows from the ids, and so do the numbers
        bare = beam.Map(lambda table: table.drop_columns(["embedding"]))
        return {"good": good | bare.with_output_types(pa.Table), "rejects": rejects}

    return apply


def _clustered(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
    cluster = bg.ClusterVectors(2, sample=3).with_exception_handling()
    found = create(p, inputs["rows"]) | cluster
    return found._asdict()


def _fit_and_apply(fitted: bool) -> Apply:
    """Give the inputs to both transforms; hidden columns to one of them."""

    def apply(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
        rows = create(p, inputs["rows"])
        others = create(p, visible(inputs["rows"]), "visible")
        fit = bg.FitPostprocess("center", group_column="lang")
        params = (rows if fitted else others) | fit
        apply = bg.ApplyPostprocess(params, group_column="lang").with_exception_handling()
        good, rejects = (others if fitted else rows) | apply
        return {"good": good, "rejects": rejects}

    return apply


def _rerank(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
    rerank = bg.Rerank(_scorer(), "text", "other", id_column="id").with_exception_handling()
    tables = [table.append_column("other", table["text"]) for table in inputs["rows"]]
    good, rejects = create(p, tables) | rerank
    return {"good": good, "rejects": rejects}


def _score_translations(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
    score = bg.ScoreTranslations(_scorer(), "text", "other", id_column="id")
    tables = [table.append_column("other", table["text"]) for table in inputs["rows"]]
    good, rejects = create(p, tables) | score.with_exception_handling()
    return {"good": good, "rejects": rejects}


@functools.cache
def _sparse() -> str:
    from tests.core.sparse.models import plain

    return plain(Path(tempfile.mkdtemp()) / "model")


@functools.cache
def _scorer() -> str:
    from tests.embedding.test_rerank import save

    return save(Path(tempfile.mkdtemp()), "bert")


def _embed_images(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
    from tests.core.images.tiny_towers import draw, encoded

    image = encoded(draw())
    tables = [
        table.append_column("image", pa.array([image] * len(table))) for table in inputs["rows"]
    ]
    embed = bg.EmbedImages(_clip(), embedding_column="v").with_exception_handling()
    good, rejects = create(p, tables) | embed
    return {"good": good, "rejects": rejects}


@functools.cache
def _clip() -> str:
    from tests.core.images.tiny_towers import make_clip

    return str(make_clip(Path(tempfile.mkdtemp()) / "clip"))


@functools.cache
def _token_model() -> str:
    from tests.core.multi_vectors.tiny_models import pylate

    return pylate(Path(tempfile.mkdtemp()))


def _embed_tokens(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
    embed = bg.EmbedTokens(_token_model(), output_column="v").with_exception_handling()
    good, rejects = create(p, inputs["rows"]) | embed
    return {"good": good, "rejects": rejects}


def _rerank_tokens(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
    vectors = pa.array([[[1.0, 0.0], [0.6, 0.8]]], pa.list_(pa.list_(pa.float32(), 2)))
    tables = []
    for table in inputs["rows"]:
        column = vectors.take(pa.array([0] * len(table), pa.int64()))
        tables.append(table.append_column("q", column).append_column("d", column))
    rerank = bg.RerankTokens("q", "d", id_column="id").with_exception_handling()
    good, rejects = create(p, tables) | rerank
    return {"good": good, "rejects": rejects}


def _stored(make: Callable[[str], beam.PTransform]) -> Apply:
    def apply(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
        _ = create(p, inputs["rows"]) | make(folder)
        return {}

    return apply


def _parquet(folder: str) -> dict[str, list[pa.Table]]:
    return {"good": [pq.read_table(f"{folder}/out")], "read": _vectors(f"{folder}/out")}


def _duckdb(folder: str) -> dict[str, list[pa.Table]]:
    path = f"{folder}/out.duckdb"
    with duckdb.connect(path) as connection:
        good = connection.sql("SELECT * FROM vectors").to_arrow_table()
    return {"good": [good], "read": _vectors(path)}


def _vectors(path: str) -> list[pa.Table]:
    return [pa.Table.from_batches([block.batch]) for block in read_vectors(path)]


def _json_lines(folder: str) -> dict[str, list[pa.Table]]:
    lines = [line for path in Path(folder, "out").glob("*.jsonl") for line in path.open()]
    return {"good": [pa.Table.from_pylist([{"n": json.loads(line)["n"]}]) for line in lines]}


def _translated(sink: Any) -> Apply:
    """Write each row beside a text, with a column of any type, which orders the pairs, too."""

    def apply(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
        tables = []
        for table in inputs["rows"]:
            names = ["source_text" if name == "text" else name for name in table.column_names]
            others = pa.array(["a text"] * len(table))
            tables.append(table.rename_columns(names).append_column("target_text", others))
        write = sink(f"{folder}/out", "de", "en", ("extra",), ("n", "extra"))
        _ = create(p, tables) | write
        return {}

    return apply


def _tmx(folder: str) -> dict[str, list[pa.Table]]:
    units = ElementTree.parse(f"{folder}/out").findall("body/tu")
    numbers = [{"n": int(unit.findtext("prop[@type='x-n']") or "")} for unit in units]
    return {"good": [pa.Table.from_pylist(numbers)]}


def _moses(folder: str) -> dict[str, list[pa.Table]]:
    text = Path(folder, "out.ids.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line)["n"] for line in text.splitlines()]
    return {"good": [pa.Table.from_pylist([{"n": number} for number in lines])]}


def _summary(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
    return {"summary": create(p, inputs["rows"]) | bg.WriteSummary(f"{folder}/summary.json")}


class NoInputError(Exception):
    """Say why there is no file of such columns."""


def decoded_run_ends(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decode run ends, and leave other columns."""
    if not pa.types.is_run_end_encoded(column.type):
        return column
    return pa.chunked_array([pc.run_end_decode(chunk) for chunk in column.chunks])


def _write(inputs: Inputs, folder: str) -> None:
    for i, table in enumerate(inputs["rows"]):
        columns = [decoded_run_ends(column) for column in table.columns]  # no file has run ends
        table = pa.table(columns, table.column_names)
        try:
            pq.write_table(table, f"{folder}/part-{i}.parquet")
        except pa.ArrowException as error:
            raise NoInputError(str(error)) from error


def _from_files(make: Callable[[str], Any]) -> Apply:
    def apply(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
        _write(inputs, folder)
        good, rejects = p | make(f"{folder}/part-*.parquet")
        return {"good": good, "rejects": rejects}

    return apply


def _read_vectors(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
    _write(inputs, folder)
    return {"good": p | bg.ReadVectors(f"{folder}/*.parquet")}


def _publish(tables: list[pa.Table], folder: str) -> str:
    """Write tables, each in two files, as a sink would, also with hidden columns."""
    held = [hidden_block(table).batch for table in tables]
    parts = [
        pa.Table.from_batches([part])
        for batch in held
        for part in (batch.slice(0, 2), batch.slice(2))
    ]
    Path(folder, "out").mkdir()
    _write({"rows": parts}, f"{folder}/out")
    for i in range(len(parts)):
        name = f"part-{0:012x}-{0:016x}-{i:05d}-of-{len(parts):05d}.parquet"
        Path(folder, "out", f"part-{i}.parquet").rename(Path(folder, "out", name))
    return f"{folder}/out"


def _parquet_files(folder: str) -> dict[str, list[pa.Table]]:
    return {"good": _vectors(f"{folder}/out")}


def _delete_by_rows(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
    deleted = create(p, inputs["rows"]) | bg.DeleteVectors(
        _publish(visible(inputs["rows"]), folder)
    )
    return {"deleted": deleted | beam.Map(lambda found: {"deleted": found.rows})}


def _delete_second_half(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
    into = _publish(inputs["rows"], folder)
    # not table.filter, which does not take lists of string views
    going = [
        pa.concat_tables(rows)
        for table in inputs["rows"]
        if (
            rows := [
                table.slice(i, 1) for i, id_ in enumerate(table["id"].to_pylist()) if id_ >= GROUPS
            ]
        )
    ]
    _ = create(p, going) | bg.DeleteVectors(into)
    return {}


def _compact(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
    _ = p | bg.CompactVectors(_publish(inputs["rows"], folder))
    return {}


def _watch(pattern: str) -> Any:
    stop = Path(pattern).parent / "stop"
    stop.touch()
    polling = bg.Polling(0.1, str(stop))
    return bg.WatchCorpus(pattern, "id", polling=polling).with_exception_handling()


def _steps(**settings: Any) -> Any:
    return bg.Deduplicate((bg.DeduplicateExact(scope="lang"), bg.DeduplicateSemantic(scope="lang")))


DEDUP = ("kept", "removed", "rejects")
ROW = (ID, TEXT, PAYLOAD)
SCOPED = (*ROW, SCOPE)
PAIR_SIDES = ("queries", "documents")

CASES = (
    Case("EmbedSparse", _of_rows(lambda: bg.EmbedSparse(_sparse())), ROW),
    Case("EmbedText", _of_rows(lambda: bg.EmbedText(WordEncoder(), embedding_column="v")), ROW),
    Case("EmbedImages", _embed_images, (ID, PAYLOAD)),
    Case("DistillStatic", _distilled, ROW),
    Case(
        "QuantizeVectors",
        _of_rows(lambda: bg.QuantizeVectors("int8")),
        (ID, PAYLOAD),
        changed=("embedding",),
    ),
    Case("FitPostprocess", _fit_and_apply(True), (ID, SCOPE, PAYLOAD), changed=("embedding",)),
    Case("ApplyPostprocess", _fit_and_apply(False), (SCOPE,), changed=("embedding",)),
    Case("FitHead", _fit_head, (ID, PAYLOAD)),
    Case("ApplyHead", _apply_head, (ID, PAYLOAD)),
    Case("FitVectorMap", _mapped(True), (ID, PAYLOAD), changed=("embedding",)),
    Case("ApplyVectorMap", _mapped(False), (ID, PAYLOAD), changed=("embedding",)),
    Case("ClusterVectors", _clustered, (ID, PAYLOAD), ("rows", "rejects")),
    Case("EmbedTokens", _embed_tokens, ROW),
    Case("Rerank", _rerank, ROW),
    Case("RerankTokens", _rerank_tokens, (ID, PAYLOAD)),
    Case("ScoreTranslations", _score_translations, ROW),
    Case("RejectDuplicateIds", _of_rows(bg.RejectDuplicateIds), (ID, PAYLOAD)),
    Case("IdentifyLanguage", _of_rows(bg.IdentifyLanguage), ROW),
    Case(
        "SplitSentences",
        _of_rows(lambda: bg.SplitSentences("en")),
        ROW,
        repeats=True,
        changed=("id", "text"),
    ),
    Case(
        "ChunkText",
        _of_rows(lambda: bg.ChunkText("sentences", 20)),
        ROW,
        repeats=True,
        changed=("id", "text"),
    ),
    *(
        Case(
            make.__name__,
            _deduplicated(functools.partial(make, scope="lang", keep="stars desc"), reference),
            (*SCOPED, ORDER),
            DEDUP,
            halves=reference,
            variant="reference" if reference else "",
        )
        for make in (bg.DeduplicateExact, bg.DeduplicateLexical, bg.DeduplicateSemantic)
        for reference in (False, True)
    ),
    Case(
        "DeduplicateExact",
        _deduplicated(functools.partial(bg.DeduplicateExact, ("text", "lang"))),
        (ID, SCOPE),
        DEDUP,
        variant="keys",
    ),
    Case(
        "DeduplicateLexical",
        _deduplicated(
            functools.partial(
                bg.DeduplicateLexical, scope="lang", keep="stars desc", similarity="containment"
            )
        ),
        (*SCOPED, ORDER),
        DEDUP,
        variant="containment",
    ),
    Case("Deduplicate", _deduplicated(_steps), SCOPED, DEDUP),
    Case("Deduplicate", _annotated, SCOPED, ("annotated", "rejects"), variant="annotate"),
    Case("SignTexts", _signed, (ID, TEXT, SCOPE), ()),
    Case(
        "CutRepeatedSpans",
        _spans_cut,
        SCOPED,
        ("good", "emptied", "rejects"),
        changed=("text",),
    ),
    Case("DeduplicateStream", _of_rows(bg.DeduplicateStream), (ID, PAYLOAD)),
    Case(
        "MineBitext",
        _of_sides(lambda: bg.MineBitext(threshold=-2.0, scope="lang"), ("pairs", "rejects")),
        SCOPED,
        (),
        sides=True,
    ),
    Case(
        "PairDocuments",
        _of_sides(lambda: bg.PairDocuments("lang"), ("good", "rejects")),
        (ID, TEXT, SCOPE),
        (),
        sides=True,
    ),
    Case(
        "AlignDocuments",
        _of_sides(lambda: bg.AlignDocuments("lang", ("stars",)), ("good", "rejects")),
        (ID, TEXT, SCOPE, ORDER),
        (),
        sides=True,
    ),
    Case(
        "ScoreBitext",
        _of_sides(bg.ScoreBitext, ("pairs", "rejects"), *SIDES, "pairs"),
        (*ROW, PAIR_ID),
        (),
        pairs=("source_id", "target_id"),
        sides=True,
    ),
    Case(
        "NearestNeighbors",
        _of_sides(bg.NearestNeighbors, ("good", "rejects"), *PAIR_SIDES),
        ROW,
        (),
        sides=True,
    ),
    Case(
        "MineHardNegatives",
        _of_sides(bg.MineHardNegatives, ("good", "rejects"), *PAIR_SIDES, "positives"),
        (*ROW, PAIR_ID),
        (),
        pairs=("query_id", "document_id"),
        sides=True,
    ),
    Case(
        "Decontaminate",
        _decontaminated,
        (ID, TEXT, PAYLOAD),
        ("kept", "removed", "rejects"),
    ),
    Case(
        "FilterPairs",
        _of_sides(bg.FilterPairs, ("kept", "removed", "rejects"), *PAIR_SIDES, "pairs"),
        (*ROW, PAIR_ID),
        (),
        pairs=("query_id", "document_id"),
        sides=True,
    ),
    Case(
        "WriteVectorsToParquet",
        _stored(lambda at: bg.WriteVectorsToParquet(f"{at}/out")),
        (ID, PAYLOAD),
        ("good",),
        read=_parquet,
        stored=True,
    ),
    Case(
        "WriteVectorsToDuckDB",
        _stored(lambda at: bg.WriteVectorsToDuckDB(f"{at}/out.duckdb")),
        (ID, PAYLOAD),
        ("good",),
        read=_duckdb,
        stored=True,
    ),
    Case("DeleteVectors", _delete_by_rows, (ID, PAYLOAD), (), variant="ids"),
    Case(
        "DeleteVectors",
        _delete_second_half,
        (PAYLOAD,),
        ("good",),
        halves=True,
        read=_parquet_files,
        stored=True,
        variant="rows",
    ),
    Case("CompactVectors", _compact, (ID, PAYLOAD), ("good",), read=_parquet_files, stored=True),
    Case(
        "WriteRejects",
        _stored(lambda at: bg.WriteRejects(f"{at}/out")),
        (ID, PAYLOAD),
        ("good",),
        read=_json_lines,
        stored=True,
    ),
    *(
        Case(sink.__name__, _translated(sink), (PAYLOAD,), ("good",), read=read, stored=True)
        for sink, read in ((bg.WriteTmx, _tmx), (bg.WriteMoses, _moses))
    ),
    Case("WriteSummary", _summary, (ID, PAYLOAD), ()),
    Case(
        "ReadCorpus",
        _from_files(lambda p: bg.ReadCorpus(p, id_column="id").with_exception_handling()),
        ROW,
        stored=True,
    ),
    Case("WatchCorpus", _from_files(_watch), ROW, stored=True),
    Case("ReadVectors", _read_vectors, (ID, PAYLOAD), ("good",), stored=True),
)
