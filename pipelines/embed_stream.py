"""Embed what appears in a folder, until stopped: new files of texts in, Parquet files and a DuckDB table with vectors out.

    python pipelines/embed_stream.py --input 'inbox/*.jsonl' --output vectors --duckdb vectors.duckdb --model MODEL

A file has to be complete when its name appears: write it elsewhere on the same disk, then rename it. Every `--every`
seconds what is new is added to `<output>/*.parquet` and to the table `vectors`, rejects to `<output>/rejects/`. With
`--horizon`, a text near to one of the last so many seconds goes to `<output>/removed/`, with the id it repeats.

Ctrl-C or SIGTERM finishes what was read and ends with a summary and exit code 0. After a crash, or kill -9, the same
command goes on where the output ends. The output says itself which rows of which files it holds: a set of files, or a
transaction of DuckDB, appears whole or not at all, and each row is named by its file and row. What was under way is
read again, what is there is not. With --horizon, former texts come from the output too. One process writes to an output.
At the end `--report page.html` makes a page of the whole output, which it reads for that.

Flags that are not listed by --help go to Beam. Without a runner this process runs the stream, in one thread.
"""

import argparse
import time
from typing import Any

import polars as pl

from beam_gpte import (
    DeduplicateStream,
    EmbedText,
    Encoder,
    EncoderConfig,
    InputError,
    WatchCorpus,
    WriteRejects,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.cli.runtime import (
    Stopwatch,
    add_report_option,
    check_model_exists,
    counters,
    local_stream_options,
    print_summary,
    run_of,
    run_program,
    stop_file,
)
from beam_gpte.core.columns import DUPLICATE_OF, EMBEDDING, ID, SCORE, SOURCE
from beam_gpte.dedup.stream import split_duplicates
from beam_gpte.files.folders import check_writable
from beam_gpte.files.json_values import write_json
from beam_gpte.reports.output_pages import stream_page
from beam_gpte.reports.page import check_report, write_page
from beam_gpte.reports.sample import sample_vectors
from beam_gpte.sinks.write_duckdb import check_database
from beam_gpte.sources.committed_rows import (
    DropCommitted,
    RecentRows,
    StreamOutput,
    all_of,
    only_in,
)
from beam_gpte.sources.watch_corpus import typed_columns

# isort: split
import apache_beam as beam  # after beam_gpte, which keeps Beam's import from warning
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.trigger import AccumulationMode, AfterProcessingTime, AfterWatermark
from apache_beam.transforms.window import GlobalWindows

SEEN_AT = "seen_at"  # when a row's file was first seen, with --horizon


class EmbedStreamOptions(PipelineOptions):
    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add(
            "--input",
            required=True,
            nargs="+",
            help="globs: Parquet, JSON Lines, CSV, text, also compressed; local or gs://",
        )
        add("--output", help="folder for the Parquet files")
        add("--duckdb", help="DuckDB file; the rows go to its table `vectors`")
        add("--model", required=True, help="hub name, folder, or URI such as gs://bucket/model")
        add(
            "--columns",
            nargs="*",
            default=[],
            help="to keep beside id and text, as name or name:type, e.g. url stars:int64",
        )
        add(
            "--id_column",
            help="ids of your own; a column `source` says file and row (default: an id made from these)",
        )
        add("--text_column", default="text", help="texts to embed (default: text)")
        add("--prompt_name", help="one of the model's own prompts, e.g. query")
        add("--prompt", help="text put before every input")
        add("--truncate_dim", type=int, help="keep the first n dimensions (Matryoshka)")
        add(
            "--horizon",
            type=float,
            help="seconds: remove texts near to one seen so lately (default: remove none)",
        )
        add(
            "--threshold",
            type=float,
            default=0.9,
            help="least cosine of texts that are near (default: 0.9)",
        )
        add(
            "--interval",
            type=float,
            default=5,
            help="seconds between two looks at the input (default: 5)",
        )
        add(
            "--every",
            type=int,
            default=10,
            help="seconds from a row to its commit, at most, when idle (default: 10)",
        )
        add_report_option(parser)


def build(
    pipeline: beam.Pipeline,
    options: EmbedStreamOptions,
    model: EncoderConfig | Encoder,
    output: StreamOutput,
    stop: str | None,
) -> None:
    in_parquet, in_database = output.parquet_rows(), output.database_rows()
    committed, id_column = output.both(in_parquet, in_database), options.id_column or ID
    corpus, unreadable = (
        pipeline
        | WatchCorpus(
            options.input,
            columns=typed_columns(options.columns),
            id_column=options.id_column,
            text_column=options.text_column,
            interval=options.interval,
            stop=stop,
            done=all_of(committed, output.set_aside()),
            time_column=SEEN_AT if options.horizon else None,
        ).with_exception_handling()
    )
    embed = EmbedText(model, text_column=options.text_column, id_column=id_column)
    vectors, refused = corpus | embed.with_exception_handling()
    rejects = [unreadable, refused]
    if options.horizon:
        since, columns = time.time() - options.horizon, (id_column, EMBEDDING, SEEN_AT)
        history = RecentRows.of(output, since, columns, without=only_in(in_parquet, committed))
        near = DeduplicateStream(
            options.threshold, options.horizon, id_column=id_column, history=history
        )
        decided, unfit = vectors | near.with_exception_handling()
        vectors, removed = split_duplicates(decided)
        rejects.append(unfit)
        (
            removed
            | "RemovedPanes" >> panes(options.every)
            | "Removed" >> WriteVectorsToParquet(output.removed, mode="append")
        )
    rejects | beam.Flatten() | "RejectPanes" >> panes(options.every) | WriteRejects(output.rejects)
    vectors = vectors | "Panes" >> panes(options.every)
    if output.folder:
        new = vectors | "NotInParquet" >> DropCommitted(in_parquet, output.column)
        new | WriteVectorsToParquet(output.folder, mode="append")
    if output.database:
        new = vectors | "NotInDuckDB" >> DropCommitted(in_database, output.column)
        new | WriteVectorsToDuckDB(output.database, id_column=output.column)


def panes(seconds: int) -> beam.WindowInto:
    """What came within so many seconds is committed together; the rest when the stream ends."""
    return beam.WindowInto(
        GlobalWindows(),
        trigger=AfterWatermark(early=AfterProcessingTime(seconds)),
        accumulation_mode=AccumulationMode.DISCARDING,
    )


def main(argv: list[str]) -> None:
    options = PipelineOptions(argv)
    local, own, watch = (
        local_stream_options(options),
        options.view_as(EmbedStreamOptions),
        Stopwatch(),
    )
    if not (own.output or own.duckdb):
        raise InputError("neither --output nor --duckdb; give one, or both")
    config = EncoderConfig(
        own.model, prompt_name=own.prompt_name, prompt=own.prompt, truncate_dim=own.truncate_dim
    )
    output = StreamOutput(own.output, own.duckdb, SOURCE if own.id_column else ID)
    check_model_exists(config)
    check_writable(output.base)
    if own.duckdb:
        check_database(own.duckdb)
    if own.report:
        check_report(own.report)
    with output.alone(), stop_file() as stop:
        pipeline = beam.Pipeline(options=options)
        build(pipeline, own, config, output, stop if local else None)
        print(
            f"watching {' '.join(own.input)}; Ctrl-C or SIGTERM finishes what was read", flush=True
        )
        result = pipeline.run()
        result.wait_until_finish()
        seconds = watch.seconds()
        summary = summary_of(counters(result), seconds, own)
        write_json(f"{output.base}/summary.json", summary)
        print_summary(summary)
        if own.report:
            columns, texts = (own.id_column or ID,), (own.text_column,)
            kept = sample_of(own.output or own.duckdb, columns, texts)
            removed = sample_of(
                output.removed, (DUPLICATE_OF,), texts, (*columns, SCORE)
            )  # beside what they repeat
            run = run_of("embed_stream.py", own, result, seconds)
            write_page(
                own.report, stream_page(run, summary, kept, removed, *columns, *texts, EMBEDDING)
            )
            print(f"{'report':>16}  {own.report}")


def sample_of(
    path: str, ids: tuple[str, ...], texts: tuple[str, ...], others: tuple[str, ...] = ()
) -> pl.DataFrame:
    try:
        return sample_vectors(path, ids, texts, (EMBEDDING,), others)
    except InputError:  # nothing was written yet
        return pl.DataFrame()


def summary_of(
    count: dict[str, int], seconds: float, options: EmbedStreamOptions
) -> dict[str, Any]:
    return {
        "model": options.model,
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


if __name__ == "__main__":
    run_program(main)
