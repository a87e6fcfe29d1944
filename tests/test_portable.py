"""No pipeline asks another runner for more than it has: checked without one, see `portable`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.coders import coders
from apache_beam.transforms.core import DoFn
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.userstate import (
    BagStateSpec,
    OrderedListStateSpec,
)
from apache_beam.transforms.window import (
    FixedWindows,
    IntervalWindow,
    NonMergingWindowFn,
    Sessions,
    SlidingWindows,
)

import beam_gpte as bg
from beam_gpte.sources.committed_rows import DropCommitted
from beam_gpte.sources.row_ranges import RowRanges
from benchmarks import graphs
from tests import portable, programs
from tests.examples import WordEncoder
from tests.matrix import transforms
from tests.matrix.cells import make_inputs
from tests.matrix.inputs import Cell
from tests.matrix.transforms import CASES, Case
from tests.test_public_names import TRANSFORMS, a_map, fitted, linear_head, make

CELL = Cell("payload", ("int64",))
COMMITTED = {"a.jsonl": RowRanges.of([1, 2, 7])}
SOURCES = {"ReadCorpus", "ReadVectors", "WatchCorpus"}
WITHOUT_ROWS = {*SOURCES, "CompactVectors"}
BATCH_CASES = [case for case in CASES if case.transform != "WatchCorpus"]

Form = Callable[[beam.Pipeline, list[pa.Table], str], beam.PCollection]


def tables(p: beam.Pipeline, given: list[pa.Table], label: str = "rows") -> beam.PCollection:
    return p | label >> beam.Create(given, reshuffle=False).with_output_types(pa.Table)


def mappings(p: beam.Pipeline, given: list[pa.Table], label: str = "rows") -> beam.PCollection:
    rows = [row for table in given for row in table.to_pylist()]
    return p | label >> beam.Create(rows, reshuffle=False).with_output_types(dict)


def blocks(p: beam.Pipeline, given: list[pa.Table], label: str = "rows") -> beam.PCollection:
    parts = [bg.Block(batch) for table in given for batch in table.to_batches()]
    return p | label >> beam.Create(parts, reshuffle=False).with_output_types(bg.Block)


def stream(p: beam.Pipeline, given: list[pa.Table], label: str = "rows") -> beam.PCollection:
    rows = given[0].to_pylist()
    repeat = beam.FlatMap(lambda _, rows: rows, rows).with_output_types(dict)
    return p | f"{label} ticks" >> PeriodicImpulse(fire_interval=1.0) | label >> repeat


def windowed(windows: Any, form: Form) -> Form:
    def make(p: beam.Pipeline, given: list[pa.Table], label: str = "rows") -> beam.PCollection:
        return form(p, given, label) | f"{label} windows" >> beam.WindowInto(windows)

    return make


BATCH: dict[str, Form] = {"tables": tables, "mappings": mappings, "blocks": blocks}
WINDOWS: dict[str, Form] = {
    "fixed": windowed(FixedWindows(60), mappings),
    "sliding": windowed(SlidingWindows(60, 30), tables),
    "sessions": windowed(Sessions(60), blocks),
    "stream": windowed(FixedWindows(60), stream),
}
# What takes windows and streams, or, below, a stream without windows; all others refuse them.
WINDOWED: dict[str, Callable[[], beam.PTransform]] = {
    "ApplyHead": lambda: bg.ApplyHead(linear_head()),
    "ApplyPostprocess": lambda: bg.ApplyPostprocess(fitted()),
    "ApplyVectorMap": lambda: bg.ApplyVectorMap(a_map()),
    "ChunkText": lambda: make("ChunkText"),
    "EmbedImages": lambda: bg.EmbedImages("a/model", "text", embedding_column="v"),
    "EmbedSparse": lambda: make("EmbedSparse"),
    "EmbedText": lambda: bg.EmbedText(WordEncoder(), embedding_column="v"),
    "EmbedTokens": lambda: bg.EmbedTokens("a/model"),
    "IdentifyLanguage": bg.IdentifyLanguage,
    "QuantizeVectors": lambda: make("QuantizeVectors"),
    "RejectDuplicateIds": bg.RejectDuplicateIds,
    "ScoreTranslations": lambda: bg.ScoreTranslations("a/model", "text", "lang", id_column="id"),
    "RerankTokens": lambda: bg.RerankTokens("a", "b"),
    "Rerank": lambda: bg.Rerank("a/model", "text", "lang", id_column="id"),
    "SplitSentences": lambda: make("SplitSentences"),
    "WriteRejects": lambda: make("WriteRejects"),
    "WriteVectorsToDuckDB": lambda: make("WriteVectorsToDuckDB"),
    "WriteVectorsToParquet": lambda: bg.WriteVectorsToParquet("vectors", mode="append"),
}
NEEDS_WINDOWS = {
    "RejectDuplicateIds",
    "WriteRejects",
    "WriteVectorsToDuckDB",
    "WriteVectorsToParquet",
}
GLOBAL = {
    **{name: given for name, given in WINDOWED.items() if name not in NEEDS_WINDOWS},
    "DeduplicateStream": bg.DeduplicateStream,
}


def check(pipeline: beam.Pipeline, *known: str) -> None:
    """Check what a job service gets, and what Dataflow's would get."""
    assert portable.faults(portable.submitted(pipeline), known) == []
    assert portable.faults(portable.submitted(pipeline, dataflow=True), known) == []


@pytest.mark.sampled(30)
@pytest.mark.parametrize(
    ("case", "form"),
    [
        (case, form)
        for case in BATCH_CASES
        for form in BATCH
        if case.transform not in SOURCES or form == "tables"  # a source takes no rows
    ],
    ids=str,
)
def test_a_batch_pipeline_is_portable(
    case: Case, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transforms, "create", BATCH[form])
    monkeypatch.setattr(transforms, "_scorer", lambda: "a/model")
    p = portable.new_pipeline()
    case.apply(p, make_inputs(case, CELL), str(tmp_path))
    check(p)


def test_every_public_transform_has_a_case() -> None:
    assert {case.transform for case in CASES} == set(TRANSFORMS)
    assert {*WINDOWED, *GLOBAL} <= set(TRANSFORMS) - SOURCES


def apply_to(form: Form, name: str, given: Callable[[], Any], *flags: str) -> beam.Pipeline:
    p = portable.new_pipeline(*flags)
    (case, *_) = (case for case in CASES if case.transform == name)
    rows = form(p, make_inputs(case, CELL)["rows"], "rows")
    handled = getattr(given(), "with_exception_handling", given)()
    _ = rows | handled
    return p


@pytest.mark.sampled(15)
@pytest.mark.parametrize("form", WINDOWS)
@pytest.mark.parametrize("name", WINDOWED)
def test_a_pipeline_with_windows_is_portable(name: str, form: str) -> None:
    flags = ["--streaming"] if form == "stream" else []
    check(apply_to(WINDOWS[form], name, WINDOWED[name], *flags))


@pytest.mark.parametrize("name", GLOBAL)
def test_a_stream_without_windows_is_portable(name: str) -> None:
    check(apply_to(stream, name, GLOBAL[name], "--streaming"))


@pytest.mark.sampled(30)
@pytest.mark.parametrize(
    ("case", "form"),
    [
        (case, form)
        for case in CASES
        for form in [*WINDOWS, "global"]
        # the cases of these fit one
        if case.transform in ("ApplyHead", "ApplyPostprocess", "ApplyVectorMap")
        or case.transform not in {*(GLOBAL if form == "global" else WINDOWED), *WITHOUT_ROWS}
    ],
    ids=str,
)
def test_all_others_refuse_windows_and_streams(
    case: Case, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transforms, "create", {**WINDOWS, "global": stream}[form])
    with pytest.raises(bg.InputError):
        case.apply(portable.new_pipeline(), make_inputs(case, CELL), str(tmp_path))


@pytest.mark.parametrize("name", graphs.PIPELINES)
def test_whatever_a_transform_can_report_is_portable(name: str) -> None:
    p = portable.new_pipeline()
    graphs.PIPELINES[name](p, "all")
    check(p)


def test_other_settings_are_portable(tmp_path: Path) -> None:
    p = portable.new_pipeline()
    rows = mappings(p, make_inputs(CASES[0], CELL)["rows"])
    vectors = rows | bg.EmbedText(WordEncoder(), embedding_column="v", reuse="previous")
    for embed in (bg.EmbedSparse, bg.EmbedTokens):
        _ = rows | embed("a/model", reuse="previous")
    hashed = bg.ImageStorage(sha256=True)
    _ = rows | bg.EmbedImages("a/model", "text", reuse="previous", storage=hashed)
    chunked = bg.EncoderConfig("a/model", long_text="chunks")
    _ = rows | "Chunks" >> bg.EmbedText(chunked, embedding_column="v", token_columns=True)
    _ = rows | bg.QuantizeVectors("int8", int8_limit="fit")
    rejects = rows | bg.WriteRejects("rejects", max_rejects=3, usable=vectors)
    parquet = bg.WriteVectorsToParquet("vectors", num_shards=3, commit_after=rejects)
    written = vectors | "Parquet" >> parquet
    _ = vectors | bg.WriteVectorsToDuckDB("v.duckdb", id_column="id", commit_after=written)
    _ = {"rows": vectors} | bg.WriteSummary("summary.json", commit_after=written)
    check(p)


def test_what_a_user_gives_may_be_the_side_input_of_a_stream() -> None:
    p = portable.new_pipeline("--streaming")
    rows = WINDOWS["stream"](p, make_inputs(CASES[0], CELL)["rows"], "rows")
    known = tables(p, make_inputs(CASES[0], CELL)["rows"], "known")
    models = known | bg.FitPostprocess("center")
    corrected = rows | bg.ApplyPostprocess(models)
    _ = corrected | bg.WriteVectorsToParquet("out", mode="append", commit_after=known)
    check(p, "/Apply/ParDo(_Apply)", "/Commit")


def test_a_folder_is_watched_without_a_side_input() -> None:
    """After a restart, with a sink that was behind."""
    p = portable.new_pipeline("--streaming")
    polling = bg.Polling(versions="versions")
    watch = bg.WatchCorpus("in/*.jsonl", time_column="at", committed=COMMITTED, polling=polling)
    corpus, _ = p | watch.with_exception_handling()
    _ = corpus | DropCommitted(COMMITTED, "id")
    check(p)


def test_the_program_for_streams_is_portable(tmp_path: Path) -> None:
    """After a restart, with everything it has."""
    code = f"""
from beam_gpte.cli.arguments import parse
from beam_gpte.cli.programs import stream
from beam_gpte.sources.committed_rows import StreamOutput
from beam_gpte.sources.row_ranges import RowRanges
from tests import portable
from tests.examples import WordEncoder
StreamOutput.parquet_rows = lambda self: {{"a.jsonl": RowRanges.of([1, 2])}}
StreamOutput.database_rows = lambda self: {{"a.jsonl": RowRanges.of([1])}}
places = "--output={tmp_path}/out", "--duckdb={tmp_path}/out.duckdb"
given = "--streaming", "--input=in/*.jsonl", "--model=a/model", "--horizon=60", *places
options, flags = parse(stream.PROGRAM, given)
p = portable.new_pipeline(*flags)
output = StreamOutput(options.output, options.duckdb, "id")
stream.build(p, options, WordEncoder(), output, None)
found = portable.submitted(p)
assert any("NotInDuckDB" in step.unique_name for step in found.components.transforms.values())
print(portable.faults(found))
"""
    done = programs.finish(["-c", code], str(programs.ROOT))
    assert done.stdout == "[]\n", done.stderr


class _Days(NonMergingWindowFn):
    def assign(self, context: Any) -> list[IntervalWindow]:
        return [IntervalWindow(0, 86_400)]

    def get_window_coder(self) -> coders.Coder:
        return coders.IntervalWindowCoder()


class _Sorted(DoFn):
    ROWS = DoFn.StateParam(OrderedListStateSpec("rows", coders.BytesCoder()))

    def process(self, element: Any, rows: Any = ROWS) -> None:
        rows.clear()


class _Bag(DoFn):
    ROWS = DoFn.StateParam(BagStateSpec("rows", coders.BytesCoder()))

    def process(self, element: Any, rows: Any = ROWS) -> None:
        rows.clear()


class _Finalizing(DoFn):
    def process(self, element: Any, finalizer: Any = DoFn.BundleFinalizerParam) -> None:
        finalizer.register(list)


def _own_windows(p: beam.Pipeline) -> Any:
    return p | beam.Create([1]) | beam.WindowInto(_Days())


def _pickled_keys(p: beam.Pipeline) -> Any:
    return p | beam.Create([((1, 2, 3), 1)]) | beam.GroupByKey()


def _float_keys(p: beam.Pipeline) -> Any:
    return p | beam.Create([(1.0, 1)]) | beam.GroupByKey()


def _pickled_state_keys(p: beam.Pipeline) -> Any:
    return p | beam.Create([((1, 2, 3), 1)]) | "Keep" >> beam.ParDo(_Bag())


def _sorted_state(p: beam.Pipeline) -> Any:
    return p | beam.Create([(1, 1)]) | "Keep" >> beam.ParDo(_Sorted())


def _finalized(p: beam.Pipeline) -> Any:
    return p | beam.Create([1]) | beam.ParDo(_Finalizing())


def _pickled_look_up(p: beam.Pipeline) -> Any:
    known = p | "Known" >> beam.Create([((1, 2, 3), 1)])
    view = beam.pvalue.AsMultiMap(known)
    return p | beam.Create([1]) | "Look" >> beam.Map(lambda _, known: known, view)


def _known_values(p: beam.Pipeline) -> Any:
    known = p | beam.Create([("a", b"b")])
    ticks = p | "Ticks" >> PeriodicImpulse()
    return ticks | "Look" >> beam.Map(lambda _, known: known, beam.pvalue.AsDict(known))


def _endless(p: beam.Pipeline) -> Any:
    ticks = p | "Ticks" >> PeriodicImpulse()
    return p | beam.Create([1]) | "Wait" >> beam.Map(min, beam.pvalue.AsIter(ticks))


def _untyped(p: beam.Pipeline) -> Any:
    named = p | "Named" >> beam.Create([bg.Block.from_pydict({"id": [1]})])
    untyped = named | beam.Map(lambda block: block).with_output_types(Any)
    return (named, untyped) | "Join" >> beam.Flatten()


def _large(p: beam.Pipeline) -> Any:
    return p | beam.Create([1]) | "Find" >> beam.Map(max, os.urandom(8_000_000))


@pytest.mark.parametrize(
    ("build", "fault"),
    [
        (_own_windows, "windows of beam:window_fn:pickled_python:v1"),
        (_pickled_keys, "GroupByKey: keys of beam:coder:tuple:v1"),
        (_float_keys, "GroupByKey: keys of beam:coder:double:v1"),
        (_pickled_state_keys, "Keep: keys of beam:coder:tuple:v1"),
        (_sorted_state, "Keep: state rows of beam:user_state:ordered_list:v1"),
        (_finalized, "requires beam:requirement:pardo:finalization:v1"),
        (_pickled_look_up, "Look: keys of beam:coder:tuple:v1"),
        (_known_values, "Look: side input in a stream"),
        (_endless, "Wait: side input is a stream"),
        (_large, "a graph of 10"),
        (_untyped, "Join: beam:coder:pickled_python:v1"),
    ],
    ids=lambda given: given.__name__.strip("_") if callable(given) else "",
)
def test_each_fault_is_found(build: Callable[[beam.Pipeline], Any], fault: str) -> None:
    p = portable.new_pipeline()
    build(p)
    found = portable.faults(portable.submitted(p))
    assert any(fault in line for line in found), found
