"""Embed a corpus: files of texts in, Parquet files (and a DuckDB table) with vectors out.

    python pipelines/embed_corpus.py --input 'texts/*.jsonl' --output vectors --model sentence-transformers/all-MiniLM-L6-v2

Writes `<output>/*.parquet` with every column of the input and the vector in `embedding`, rejected rows with their reasons
to `<output>/rejects/`, and `<output>/summary.json`; with `--report page.html` a page to look at. Flags that are not listed
by --help go to Beam, e.g. --runner.
"""

import argparse
import sys
from typing import Any

from beam_gpte import (
    EmbedText,
    EncoderConfig,
    QuantizeVectors,
    ReadCorpus,
    WriteRejects,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.cli.progress import ProgressFiles, ReportProgress, progress_bar
from beam_gpte.cli.runtime import (
    Stopwatch,
    add_report_option,
    check_inputs,
    count_files,
    counters,
    local_options,
    print_summary,
    run_of,
    run_pipeline,
    run_program,
    sample_file,
)
from beam_gpte.core.columns import EMBEDDING
from beam_gpte.files.folders import check_writable
from beam_gpte.files.json_values import write_json
from beam_gpte.reports.page import check_report, write_page
from beam_gpte.reports.run_pages import embedding_page
from beam_gpte.reports.sample import WriteSample, take_sample
from beam_gpte.sinks.write_duckdb import check_database

# isort: split
import apache_beam as beam  # after beam_gpte, which keeps Beam's import from warning
from apache_beam.options.pipeline_options import PipelineOptions


class EmbedCorpusOptions(PipelineOptions):
    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add(
            "--input",
            required=True,
            nargs="+",
            help="files or globs: Parquet, JSON Lines, CSV, text, also compressed",
        )
        add("--output", required=True, help="folder for the Parquet files")
        add("--duckdb", help="DuckDB file; the vectors are upserted by id into its table `vectors`")
        add("--model", required=True, help="hub name, folder, or URI such as gs://bucket/model")
        add("--id_column", help="ids, unique in the corpus; default: made from file and row")
        add("--text_column", default="text", help="texts to embed (default: text)")
        add("--prompt_name", help="one of the model's own prompts, e.g. query")
        add("--prompt", help="text put before every input")
        add("--pooling", default="auto", help="auto (as the model says), cls, mean, max, last, ...")
        add("--truncate_dim", type=int, help="keep the first n dimensions (Matryoshka)")
        add(
            "--precision",
            default="fp32",
            help="fp32, or bf16 where the hardware multiplies in bfloat16",
        )
        add("--long_text", default="truncate", help="truncate, windows, chunks or late_chunks")
        add(
            "--chunk_tokens",
            type=int,
            help="longest window or chunk (default: what the model takes)",
        )
        add("--quantize", help="float16, int8 or binary, in place of float32")
        add(
            "--reuse",
            help="Parquet files of a former run, e.g. <output>: texts it has are not embedded again",
        )
        add(
            "--max_rejects",
            type=int,
            help="fail, and write no vectors, if more rows are rejected (default: no limit)",
        )
        add_report_option(parser)


def build(
    pipeline: beam.Pipeline,
    options: EmbedCorpusOptions,
    config: EncoderConfig,
    files: ProgressFiles | None,
) -> None:
    corpus, unreadable = (
        pipeline
        | ReadCorpus(
            options.input, id_column=options.id_column, text_column=options.text_column
        ).with_exception_handling()
    )
    if files:
        corpus = corpus | "RowsRead" >> ReportProgress(files.read)
    embed = EmbedText(
        config,
        text_column=options.text_column,
        id_column=options.id_column or "id",
        reuse=options.reuse,
    )
    vectors, refused = corpus | embed.with_exception_handling()
    if files:
        vectors = vectors | "RowsDone" >> ReportProgress(files.done)
    if options.quantize:
        limit = "fit" if options.quantize == "int8" else None
        vectors = vectors | QuantizeVectors(
            options.quantize, limit, id_column=options.id_column or "id"
        )
    if options.report:
        columns = (options.id_column or "id",), (options.text_column,), (EMBEDDING,)
        vectors | "WriteSample" >> WriteSample(sample_file(options.output), *columns)
    rejects = (unreadable, refused) | "Rejects" >> beam.Flatten()
    within_limit = rejects | WriteRejects(
        f"{options.output.rstrip('/')}/rejects", options.max_rejects
    )
    vectors | WriteVectorsToParquet(options.output, commit_after=within_limit)
    if options.duckdb:
        vectors | WriteVectorsToDuckDB(
            options.duckdb, id_column=options.id_column or "id", commit_after=within_limit
        )


def main(argv: list[str]) -> None:
    options = PipelineOptions(argv)
    local, own, watch = local_options(options), options.view_as(EmbedCorpusOptions), Stopwatch()
    config = EncoderConfig(
        own.model,
        pooling=own.pooling,
        prompt_name=own.prompt_name,
        prompt=own.prompt,
        truncate_dim=own.truncate_dim,
        precision=own.precision,
        long_text=own.long_text,
        chunk_tokens=own.chunk_tokens,
    )
    check_inputs(own.input, own.text_column, own.id_column, config)
    check_writable(own.output)
    if own.duckdb:
        check_database(own.duckdb)
    if own.report:
        check_report(own.report)
    with progress_bar(shown=local and sys.stderr.isatty()) as files:
        pipeline = beam.Pipeline(options=options)
        build(pipeline, own, config, files)
        result = run_pipeline(pipeline, local)
    seconds = watch.seconds()
    summary = summary_of(counters(result), seconds, own)
    write_json(f"{own.output.rstrip('/')}/summary.json", summary)
    print_summary(summary)
    if own.report:
        run, sample = (
            run_of("embed_corpus.py", own, result, seconds),
            take_sample(sample_file(own.output)),
        )
        write_page(own.report, embedding_page(run, summary, sample, own.text_column, EMBEDDING))
        print(f"{'report':>16}  {own.report}")


def summary_of(
    count: dict[str, int], seconds: float, options: EmbedCorpusOptions
) -> dict[str, Any]:
    return {
        "model": options.model,
        "texts": count.get("texts", 0) + count.get("texts_reused", 0),
        "tokens": count.get("tokens", 0),
        "seconds": round(seconds, 2),
        "texts_per_second": round(count.get("texts", 0) / seconds, 1),
        "vectors": count.get("vectors", 0) + count.get("texts_reused", 0),
        "reused": count.get("texts_reused", 0),
        "truncated": count.get("texts_truncated", 0),
        "rejected": count.get("rejects", 0),
        "reasons": {
            name.removeprefix("rejects: "): n
            for name, n in sorted(count.items())
            if name.startswith("rejects: ")
        },
        "files": count_files(f"{options.output.rstrip('/')}/*.parquet"),
        "output": options.output,
        "duckdb": options.duckdb,
    }


if __name__ == "__main__":
    run_program(main)
