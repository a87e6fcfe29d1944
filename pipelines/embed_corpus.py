r"""Embed a corpus: read files of texts, write Parquet files (and a DuckDB table) with vectors.

    python pipelines/embed_corpus.py --input 'texts/*.jsonl' --output vectors \
        --model sentence-transformers/all-MiniLM-L6-v2

Writes `<output>/*.parquet` with every column of the input and the vector in `embedding`, rejected
rows with their reasons to `<output>/rejects/`, and `<output>/summary.json`; with `--report
page.html` also a report page. If no row is read, or all are rejected, the previous vectors stay and
the exit code is 3. Flags that --help does not list, such as --runner, go to Beam.
"""

import argparse
import sys
from typing import Any

from beam_gpte import (
    EmbedText,
    EncoderConfig,
    QuantizeVectors,
    ReadCorpus,
    ReadLimits,
    WriteRejects,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.cli.any_rows import any_read, any_usable, total_rows
from beam_gpte.cli.corpus_options import (
    add_max_row_bytes_option,
    add_rename_option,
    add_types_option,
    check_added,
    check_renames,
    check_types,
    renamed,
    types_of,
)
from beam_gpte.cli.progress import ProgressFiles, ReportProgress, progress_bar
from beam_gpte.cli.runtime import (
    Stopwatch,
    add_report_option,
    check_inputs,
    count_files,
    count_rows,
    counters,
    local_options,
    print_summary,
    run_of,
    run_pipeline,
    run_program,
    sample_file,
)
from beam_gpte.core.columns import EMBEDDING
from beam_gpte.core.encoder.model_folder import public_name
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
            help="files or globs: Parquet, JSON Lines, CSV or text, possibly compressed",
        )
        add("--output", required=True, help="folder for the Parquet files")
        add("--duckdb", help="DuckDB file: vectors are upserted by id into its table `vectors`")
        add("--model", required=True, help="hub name, folder, or URI such as gs://bucket/model")
        add("--id_column", help="unique ids (default: generated from file and row)")
        add("--text_column", default="text", help="texts to embed (default: text)")
        add("--prompt_name", help="a prompt that the model defines, e.g. query")
        add("--prompt", help="text put before every input")
        add(
            "--pooling",
            default="auto",
            help="auto (what the model defines), cls, mean, max, last, ...",
        )
        add("--truncate_dim", type=int, help="keep the first n dimensions (Matryoshka)")
        add(
            "--precision",
            default="fp32",
            help="fp32 (default), or bf16 on hardware that multiplies in bfloat16",
        )
        add(
            "--long_text",
            default="truncate",
            help="truncate (default), windows, chunks or late_chunks",
        )
        add(
            "--chunk_tokens",
            type=int,
            help="maximum size of a window or chunk (default: the model's limit)",
        )
        add("--quantize", help="float16, int8 or binary, instead of float32")
        add(
            "--reuse",
            help="Parquet files of a previous run, e.g. <output>: its texts are not embedded again",
        )
        add_types_option(parser)
        add_max_row_bytes_option(parser)
        add_rename_option(parser, "the vectors (embedding) and the columns of chunks")
        add(
            "--max_rejects",
            type=int,
            help="fail and write no vectors if more rows are rejected (default: no limit)",
        )
        add_report_option(parser)


def embed_of(options: EmbedCorpusOptions, config: EncoderConfig) -> EmbedText:
    return EmbedText(config, options.text_column, options.id_column or "id", reuse=options.reuse)


def vectors_of(options: EmbedCorpusOptions, config: EncoderConfig) -> str:
    """Name the column of the vectors."""
    return renamed(embed_of(options, config), options.rename).added()[EMBEDDING]


def build(
    pipeline: beam.Pipeline,
    options: EmbedCorpusOptions,
    config: EncoderConfig,
    files: ProgressFiles | None,
) -> None:
    id_column, text_column = options.id_column or "id", options.text_column
    read = ReadCorpus(
        options.input,
        id_column=options.id_column,
        text_column=text_column,
        types=types_of(options.types),
        limits=ReadLimits(options.max_row_bytes),
    )
    corpus, unreadable = pipeline | read.with_exception_handling()
    if files:
        corpus = corpus | "RowsRead" >> ReportProgress(files.read)
    embed, embedding = (
        renamed(embed_of(options, config), options.rename),
        vectors_of(options, config),
    )
    vectors, refused = corpus | embed.with_exception_handling()
    if files:
        vectors = vectors | "RowsDone" >> ReportProgress(files.done)
    if options.quantize:
        limit = "fit" if options.quantize == "int8" else None
        vectors = vectors | QuantizeVectors(options.quantize, limit, embedding, id_column)
    if options.report:
        columns = (id_column,), (text_column,), (embedding,)
        vectors | "WriteSample" >> WriteSample(sample_file(options.output), *columns)
    rejects = (unreadable, refused) | "Rejects" >> beam.Flatten()
    rejects_folder = f"{options.output.rstrip('/')}/rejects"
    usable = total_rows((vectors,), "usable")
    some_read = any_read(pipeline, input=total_rows((vectors, rejects), "read"))
    within_limit = rejects | WriteRejects(rejects_folder, options.max_rejects, some_read)
    some = any_usable(pipeline, usable, count_rows(within_limit))
    vectors | WriteVectorsToParquet(options.output, commit_after=some)
    if options.duckdb:
        vectors | WriteVectorsToDuckDB(options.duckdb, id_column=id_column, commit_after=some)


def main(argv: list[str]) -> None:
    beam_options, watch = PipelineOptions(argv), Stopwatch()
    local, options = local_options(beam_options), beam_options.view_as(EmbedCorpusOptions)
    config = EncoderConfig(
        options.model,
        pooling=options.pooling,
        prompt_name=options.prompt_name,
        prompt=options.prompt,
        truncate_dim=options.truncate_dim,
        precision=options.precision,
        long_text=options.long_text,
        chunk_tokens=options.chunk_tokens,
    )
    check(options, config)
    with progress_bar(shown=local and sys.stderr.isatty()) as files:
        pipeline = beam.Pipeline(options=beam_options)
        build(pipeline, options, config, files)
        result = run_pipeline(pipeline, local, options.output)
    seconds = watch.seconds()
    summary = summary_of(counters(result), seconds, options)
    write_json(f"{options.output.rstrip('/')}/summary.json", summary)
    print_summary(summary)
    if options.report:
        run = run_of("embed_corpus.py", options, result, seconds)
        sample = take_sample(sample_file(options.output))
        vectors = vectors_of(options, config)
        page = embedding_page(run, summary, sample, options.text_column, vectors, config)
        write_page(options.report, page)
        print(f"{'report':>16}  {options.report}")


def check(options: EmbedCorpusOptions, config: EncoderConfig) -> None:
    """Check before the job starts what can be checked on this machine."""
    columns = options.text_column, options.id_column
    first, present = check_inputs(options.input, *columns, config)
    check_types(options.types, first, present)
    check_renames([embed_of(options, config)], options.rename)
    check_added([embed_of(options, config)], options.rename, first, present)
    check_writable(options.output)
    if options.duckdb:
        check_database(options.duckdb)
    if options.report:
        check_report(options.report)


def summary_of(
    count: dict[str, int], seconds: float, options: EmbedCorpusOptions
) -> dict[str, Any]:
    return {
        "model": public_name(options.model),
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
        "files": count_files(options.output),
        "output": options.output,
        "duckdb": options.duckdb,
    }


if __name__ == "__main__":
    run_program(main)
