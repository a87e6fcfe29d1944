r"""Embed what arrives in a folder until stopped: read new files, write Parquet files and DuckDB.

    beam-gpte stream --input 'inbox/*.jsonl' --output vectors --duckdb vectors.duckdb --model MODEL

A file has to be complete when its name appears: write it elsewhere on the same disk, then rename
it. A name is read once; `beam-gpte embed --mode sync --every` follows files that change. Every
`--every` seconds new rows are added to `<output>/*.parquet` and to the table `vectors`, rejects to
`<output>/rejects/`. With `--horizon`, a text close to one of the last so many seconds goes to
`<output>/removed/`, with the id that it duplicates.

Ctrl-C or SIGTERM finishes what was read and ends with a summary and exit code 0; on a cluster it
cancels the job, and what was not committed is read again by the same command. After a crash, or
kill -9, the same command resumes. The output itself records which rows of which files it holds: a
set of files, or a transaction of DuckDB, appears completely or not at all, and each row is
identified by its file and row number. Uncommitted rows are read again, committed ones are not. With
--horizon, rows of previous runs are loaded from the output too. Only one process may write to an
output. At the end `--report page.html` writes a page about the whole output, which it reads for
that.

Unless a runner is named, this process runs the stream in one thread.
"""

import argparse
import time
from typing import Any

import polars as pl

from beam_gpte import (
    Columns,
    DeduplicateStream,
    EmbedText,
    InputError,
    Polling,
    ReadCorpus,
    WatchCorpus,
    WriteRejects,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.cli.arguments import Program
from beam_gpte.cli.corpus_options import (
    add_file_options,
    add_model_options,
    add_rename_option,
    check_added,
    check_renames,
    read_options,
    renamed,
    renames,
)
from beam_gpte.cli.destinations import check_destination
from beam_gpte.cli.forecast.dry_run import add_dry_run_option, dry_run, no_new_folders
from beam_gpte.cli.forecast.jobs import Job, Side
from beam_gpte.cli.interrupts import leave
from beam_gpte.cli.models.endpoint_options import ModelConfig, in_files, model_of
from beam_gpte.cli.progress import shown_commits
from beam_gpte.cli.runtime import (
    Stopwatch,
    add_report_option,
    check_model_exists,
    counters,
    print_summary,
    run_of,
)
from beam_gpte.cli.stream_counters import count_all_bundles
from beam_gpte.cli.streams import (
    check_flags,
    finishing_bundles,
    local_stream_options,
    run_stream,
    stop_file,
)
from beam_gpte.core.columns import DUPLICATE_OF, EMBEDDING, ID, SCORE, SOURCE
from beam_gpte.core.errors import naming
from beam_gpte.dedup.stream import split_duplicates
from beam_gpte.elements.added_columns import AddsColumns
from beam_gpte.embedding.models import Model, name_of
from beam_gpte.files.folders import check_writable
from beam_gpte.files.json_values import write_json
from beam_gpte.reports.output_pages import StreamSample, stream_page
from beam_gpte.reports.page import check_report, write_page
from beam_gpte.reports.sample import sample_vectors
from beam_gpte.sinks.runs.owner import set_owner
from beam_gpte.sinks.write_duckdb import check_database
from beam_gpte.sources.committed_rows import (
    DropCommitted,
    RecentRows,
    StreamOutput,
    all_of,
    only_in,
)
from beam_gpte.sources.declared_columns import typed_columns

# isort: split
import apache_beam as beam  # after beam_gpte, which keeps Beam's import from warning
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.trigger import AccumulationMode, AfterProcessingTime, AfterWatermark
from apache_beam.transforms.window import GlobalWindows

SEEN_AT = "seen_at"  # when a row's file was first seen, with --horizon


def add_options(parser: argparse.ArgumentParser) -> None:
    reading = parser.add_argument_group("input")
    reading.add_argument(
        "--input",
        required=True,
        nargs="+",
        help="globs: Parquet, JSON Lines, CSV or text, possibly compressed; local or gs://",
    )
    reading.add_argument(
        "--id_column",
        help="ids (default: generated from file and row); adds a column `source`: file and row",
    )
    reading.add_argument("--text_column", default="text", help="texts to embed")
    reading.add_argument(
        "--columns",
        nargs="*",
        default=[],
        help="to keep besides id and text, as name or name:type, e.g. url stars:int64",
    )
    add_file_options(reading)
    reading.add_argument(
        "--interval", type=float, default=5.0, help="seconds between two scans of the input"
    )
    add_model_options(parser.add_argument_group("model"))
    duplicates = parser.add_argument_group("duplicates")
    duplicates.add_argument(
        "--horizon",
        type=float,
        help="remove texts close to one seen within this many seconds (default: remove none)",
    )
    duplicates.add_argument(
        "--threshold", type=float, default=0.9, help="minimum cosine of duplicates"
    )
    writing = parser.add_argument_group("output: a folder, a DuckDB file, or both")
    writing.add_argument("--output", help="folder for the Parquet files")
    writing.add_argument(
        "--duckdb", metavar="FILE", help="DuckDB file: rows go to its table `vectors`"
    )
    writing.add_argument(
        "--every",
        type=int,
        default=10,
        help="maximum seconds from reading a row to its commit, when idle",
    )
    add_rename_option(writing, "embedding, duplicate_of or score")
    add_report_option(writing)
    add_dry_run_option(writing)


def embed_of(options: argparse.Namespace, model: Model) -> EmbedText:
    embed = EmbedText(model, options.text_column, options.id_column or ID)
    return renamed(embed, options.rename)


def vectors_of(options: argparse.Namespace) -> str:
    """Name the column of the vectors."""
    return embed_of(options, model_of(options)).added()[EMBEDDING]


def build(
    pipeline: beam.Pipeline,
    options: argparse.Namespace,
    model: Model,
    output: StreamOutput,
    stop: str | None,
) -> None:
    id_column, text_column = options.id_column or ID, options.text_column
    in_parquet, in_database = output.parquet_rows(), output.database_rows()
    committed = output.both(in_parquet, in_database)
    watch = WatchCorpus(
        options.input,
        id_column=options.id_column,
        text_column=text_column,
        columns=typed_columns(options.columns),
        time_column=SEEN_AT if options.horizon else None,
        committed=all_of(committed, output.rejected_or_removed()),
        polling=Polling(options.interval, stop, output.versions),
        options=read_options(options),
    )
    corpus, unreadable = pipeline | watch.with_exception_handling()
    vectors, refused = corpus | embed_of(options, model).with_exception_handling()
    rejects = [unreadable, refused]
    if options.horizon:
        since, embedding = time.time() - options.horizon, vectors_of(options)
        columns = id_column, embedding, SEEN_AT
        history = RecentRows.of(output, since, columns, without=only_in(in_parquet, committed))
        read = Columns(id=id_column, embedding=embedding)
        deduplicate = DeduplicateStream(options.threshold, options.horizon, history, columns=read)
        deduplicate = renamed(deduplicate, options.rename)
        decided, unusable = vectors | deduplicate.with_exception_handling()
        vectors, removed = split_duplicates(decided, deduplicate.added())
        rejects.append(unusable)
        removed_panes = removed | "RemovedPanes" >> panes(options.every)
        removed_panes | "Removed" >> WriteVectorsToParquet(output.removed, mode="append")
    rejects | beam.Flatten() | "RejectPanes" >> panes(options.every) | WriteRejects(output.rejects)
    vectors = vectors | "Panes" >> panes(options.every)
    if output.folder:
        new = vectors | "NotInParquet" >> DropCommitted(in_parquet, output.column)
        new | WriteVectorsToParquet(output.folder, mode="append")
    if output.database:
        new = vectors | "NotInDuckDB" >> DropCommitted(in_database, output.column)
        new | WriteVectorsToDuckDB(output.database, id_column=output.column)


def panes(seconds: int) -> beam.WindowInto:
    """Fire after so many seconds, for a commit of what arrived; the rest when the stream ends."""
    return beam.WindowInto(
        GlobalWindows(),
        trigger=AfterWatermark(early=AfterProcessingTime(seconds)),
        accumulation_mode=AccumulationMode.DISCARDING,
    )


def run(options: argparse.Namespace, flags: list[str]) -> None:
    check_flags(flags)
    beam_options, watch = PipelineOptions(finishing_bundles(flags)), Stopwatch()
    local = local_stream_options(beam_options)
    if not (options.output or options.duckdb):
        raise InputError("neither --output nor --duckdb; give one, or both")
    config = model_of(
        options,
        prompt_name=options.prompt_name,
        prompt=options.prompt,
        truncate_dim=options.truncate_dim,
        adapter=options.adapter,
        route=options.route,
    )
    id_column = SOURCE if options.id_column else ID
    output = StreamOutput(options.output, options.duckdb, id_column)
    with no_new_folders(options.dry_run, output.base, options.report):
        check(options, config, output)
    if options.dry_run:
        output.check_free()
        if options.duckdb:
            with no_new_folders(True, options.duckdb):
                check_database(options.duckdb)
        loaded = None
        if local:
            at = options.duckdb, options.output
            loaded = check_destination(config, vectors_of(options), *at)
        dry_run(job_of(options, flags, local, config))
        return
    owner = output.owner(options.interval, local)
    places = [place for place in (options.output, output.removed, output.rejects) if place]
    places += [options.duckdb] if options.duckdb else []
    with output.alone(owner), stop_file() as stop, shown_commits(local, places):

        def start() -> Any:
            if options.duckdb:  # not before: another stream would have it open for a commit
                check_database(options.duckdb)
            pipeline = beam.Pipeline(options=beam_options)
            set_owner(pipeline, owner)
            build(pipeline, options, config, output, stop if local else None)
            inputs, end = " ".join(options.input), "finishes what was read" if local else "ends it"
            print(f"watching {inputs}; Ctrl-C or SIGTERM {end}", flush=True)
            return pipeline.run()

        loaded = None  # held until the stream ends: its steps share it
        if local:
            count_all_bundles()
            at = options.duckdb, options.output
            loaded = check_destination(config, vectors_of(options), *at)
        result = run_stream(start, owner, None if local else stop)
    if result is None:
        print("stopped; what was committed is kept, and the same command goes on")
        leave(0)
    del loaded
    seconds = watch.seconds()
    summary = summary_of(counters(result), seconds, options)
    write_json(f"{output.base}/summary.json", summary)
    print_summary(summary)
    if options.report:
        about = run_of(PROGRAM.name, options, flags, result, seconds)
        page = stream_page(about, summary, sample_of(options, output), in_files(config))
        write_page(options.report, page)
        print(f"{'report':>16}  {options.report}")


def job_of(
    options: argparse.Namespace,
    flags: list[str],
    local: bool,
    config: ModelConfig,
) -> Job:
    """Describe for a dry run a job that embeds in one thread what is there now."""

    def build_trial(pipeline: beam.Pipeline, trial: argparse.Namespace) -> None:
        model = config if trial.model == options.model else trial.model
        columns = [name.partition(":")[0] for name in options.columns]
        names = {"id_column": options.id_column, "text_column": options.text_column}
        read = ReadCorpus(trial.input, columns, **names, options=read_options(options))
        corpus, unreadable = pipeline | read.with_exception_handling()
        vectors, refused = corpus | embed_of(options, model).with_exception_handling()
        rejects = (unreadable, refused) | beam.Flatten()
        rejects | WriteRejects(f"{trial.output}/rejects")
        if options.output:
            vectors | WriteVectorsToParquet(trial.output, mode="append")
        if options.duckdb:
            ids = options.id_column or ID
            vectors | WriteVectorsToDuckDB(trial.duckdb, id_column=ids)

    sides = {"input": Side(options.input, options.id_column)}
    return Job(options, flags, local, sides, in_files(config), build_trial, is_stream=True)


def check(options: argparse.Namespace, config: ModelConfig, output: StreamOutput) -> None:
    """Check before the stream starts what can be checked on this machine."""
    Polling(options.interval)
    read_options(options)
    check_columns(options, config)
    check_model_exists(config)
    check_writable(output.base)
    if options.report:
        check_report(options.report)


def check_columns(options: argparse.Namespace, config: ModelConfig) -> None:
    adding: list[AddsColumns] = [EmbedText(config, options.text_column, options.id_column or ID)]
    if options.horizon:
        adding.append(DeduplicateStream(options.threshold, options.horizon))
    check_renames(adding, options.rename)
    with naming("--columns"):
        columns = typed_columns(options.columns)
    check_added(adding, options.rename, "--columns", columns)
    if options.report and renames(options.rename).keys() & {DUPLICATE_OF, SCORE}:
        raise InputError("--report reads duplicate_of and score; leave these out of --rename")


def sample_of(options: argparse.Namespace, output: StreamOutput) -> StreamSample:
    """Sample the whole output; removed rows so that they are beside the rows they duplicate."""
    ids, texts, vectors = (options.id_column or ID,), (options.text_column,), vectors_of(options)
    return StreamSample(
        kept=rows_of(options.output or options.duckdb, vectors, ids, texts),
        removed=rows_of(output.removed, vectors, (DUPLICATE_OF,), texts, (*ids, SCORE)),
        id_column=ids[0],
        text_column=texts[0],
        embedding_column=vectors,
    )


def rows_of(
    path: str,
    vectors: str,
    ids: tuple[str, ...],
    texts: tuple[str, ...],
    others: tuple[str, ...] = (),
) -> pl.DataFrame:
    try:
        return sample_vectors(path, ids, texts, (vectors,), others)
    except InputError:  # nothing has been written yet
        return pl.DataFrame()


def summary_of(
    count: dict[str, int], seconds: float, options: argparse.Namespace
) -> dict[str, Any]:
    return {
        "model": name_of(model_of(options, adapter=options.adapter)),
        "files_read": count.get("files_read", 0),
        "rows_read": count.get("rows_read", 0),
        "texts": count.get("texts", 0),
        "tokens": count.get("tokens", 0),
        "removed": count.get("duplicates", 0),
        "rejected": count.get("rejects", 0),
        "reasons": {
            name.removeprefix("rejects: "): n
            for name, n in sorted(count.items())
            if name.startswith("rejects: ")
        },
        "seconds": round(seconds, 2),
        "output": options.output,
        "duckdb": options.duckdb,
    }


PROGRAM = Program("stream", __doc__, add_options, run)
