r"""Embed a corpus: read files of texts, write vectors.

    beam-gpte embed --input 'texts/*.jsonl' --output vectors \
        --model sentence-transformers/all-MiniLM-L6-v2

Writes `<output>/*.parquet` with every column of the input and the vector in `embedding`, rejected
rows with their reasons to `<output>/rejects/`, and `<output>/summary.json`; with `--report
page.html` also a report page. If no row is read, or all are rejected, the previous vectors stay and
the exit code is 3.

With `--mode sync` the output becomes what the input is now: rows that are new or have changed are
embedded and written, those whose input is gone are removed, and all others stay as they are. A row
that is rejected keeps its previous version. With `--every 60` it goes on so while files are
written, rewritten and deleted.
"""

import argparse
import copy
import dataclasses
from typing import Any

from beam_gpte import (
    EmbedText,
    EncoderConfig,
    QuantizeVectors,
    ReadCorpus,
    ReplaceOptions,
    Reuse,
    WriteRejects,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.cli.any_rows import (
    any_read,
    any_usable,
    check_present,
    first_columns,
    total_rows,
)
from beam_gpte.cli.arguments import Program
from beam_gpte.cli.corpus_options import (
    FILES,
    add_column_options,
    add_max_rejects_option,
    add_model_options,
    add_reading_options,
    add_rename_option,
    check_added,
    check_renames,
    check_types,
    read_options,
    renamed,
    types_of,
    use_ids,
)
from beam_gpte.cli.destinations import check_destination, int8_limit
from beam_gpte.cli.forecast.dry_run import add_dry_run_option, dry_run, no_new_folders
from beam_gpte.cli.forecast.jobs import Job, Side
from beam_gpte.cli.models.endpoint_options import ModelConfig, in_files, model_of
from beam_gpte.cli.progress import shown_progress
from beam_gpte.cli.runners import LOCAL_RUNNER
from beam_gpte.cli.runtime import (
    Stopwatch,
    add_report_option,
    changes,
    check_model_exists,
    count_files,
    count_rows,
    counters,
    local_options,
    print_summary,
    run_of,
    run_pipeline,
    sample_file,
)
from beam_gpte.cli.streams import follow
from beam_gpte.core.columns import EMBEDDING, ID, PARENT_HASH, PARENT_ID
from beam_gpte.core.errors import InputError, NothingWrittenError, naming
from beam_gpte.elements.checks import CheckTexts
from beam_gpte.elements.rejects import reject_outputs
from beam_gpte.embedding.models import Model, name_of
from beam_gpte.embedding.previous.previous_columns import HashTexts
from beam_gpte.embedding.quantize_vectors import FIT
from beam_gpte.embedding.reuse import NOT_REUSED
from beam_gpte.files.folders import absolute, check_writable
from beam_gpte.files.json_values import write_json
from beam_gpte.files.scratch import temporary_folder
from beam_gpte.reports.page import check_report, write_page
from beam_gpte.reports.run_pages import embedding_page
from beam_gpte.reports.sample import WriteSample, take_sample
from beam_gpte.sinks import write_parquet
from beam_gpte.sinks.folders.preview_sync import PreviewSync
from beam_gpte.sinks.folders.sync_rows import Compared
from beam_gpte.sinks.write_duckdb import check_database
from beam_gpte.sources.output_columns import committed_files
from beam_gpte.sources.read_vectors import vector_files

# isort: split
import apache_beam as beam  # after beam_gpte, which keeps Beam's import from warning
from apache_beam.options.pipeline_options import PipelineOptions


def add_options(parser: argparse.ArgumentParser) -> None:
    reading = parser.add_argument_group("input")
    reading.add_argument("--input", required=True, nargs="+", help=FILES)
    add_column_options(reading)
    add_reading_options(reading)
    reading.add_argument(
        "--reuse",
        metavar="FOLDER",
        help="Parquet files of a previous run, e.g. <output>: its texts are not embedded again",
    )
    model = parser.add_argument_group("model")
    add_model_options(model)
    model.add_argument(
        "--pooling",
        default="auto",
        help="auto (what the model defines), cls, mean, max, last, ...",
    )
    model.add_argument(
        "--precision",
        default="fp32",
        help="fp32; bf16 on hardware that multiplies in bfloat16; int8 on a CPU, whose vectors are "
        "further from fp32; fp16 on a GPU; auto: bf16 where it is faster, otherwise fp32",
    )
    model.add_argument(
        "--long_text", default="truncate", help="truncate, windows, chunks or late_chunks"
    )
    model.add_argument(
        "--chunk_tokens",
        type=int,
        metavar="N",
        help="maximum size of a window or chunk (default: the model's limit)",
    )
    writing = parser.add_argument_group("output")
    writing.add_argument("--output", required=True, help="folder for the Parquet files")
    writing.add_argument(
        "--duckdb",
        metavar="FILE",
        help="DuckDB file: vectors are upserted by id into its table `vectors`",
    )
    writing.add_argument(
        "--mode",
        choices=("replace", "sync"),
        default="replace",
        help="replace writes all rows again (a DuckDB file keeps rows of other ids), sync only "
        "what has changed",
    )
    writing.add_argument(
        "--allow_empty",
        action="store_true",
        help="with --mode sync: an input without a usable row removes all rows",
    )
    writing.add_argument(
        "--every",
        type=float,
        metavar="SECONDS",
        help="with --mode sync: look at the input so often, and sync again when a file has "
        "appeared, changed or vanished, until Ctrl-C or SIGTERM",
    )
    writing.add_argument(
        "--keep_previous",
        action="store_true",
        help="keep the Parquet files that are replaced until the next run, for beam-gpte rollback",
    )
    writing.add_argument("--quantize", help="float16, int8 or binary (default: float32)")
    add_rename_option(writing, "the vectors (embedding) and the columns of chunks")
    add_max_rejects_option(writing, "vectors")
    add_report_option(writing)
    add_dry_run_option(writing)


Limit = float | str | None  # of int8, see `QuantizeVectors`


def embed_of(
    options: argparse.Namespace,
    config: Model,
    limit: Limit = FIT,
) -> EmbedText:
    reuse = None if options.reuse is None else reuse_of(options, limit)
    return EmbedText(config, options.text_column, options.id_column or "id", reuse=reuse)


def reuse_of(options: argparse.Namespace, limit: Limit) -> Reuse:
    """Say how the previous run may have quantized its vectors: as this one does."""
    if options.quantize != "int8":
        return Reuse(options.reuse, options.quantize)
    if isinstance(limit, str):  # fitted to this run, so none that is there has it
        return Reuse(options.reuse)
    return Reuse(options.reuse, "int8", limit)


def vectors_of(options: argparse.Namespace, config: Model) -> str:
    """Name the column of the vectors."""
    return renamed(embed_of(options, config), options.rename).added()[EMBEDDING]


def quantize_of(options: argparse.Namespace, embedding: str, limit: Limit = FIT) -> QuantizeVectors:
    limit = limit if options.quantize == "int8" else None
    return QuantizeVectors(options.quantize, limit, embedding, options.id_column or "id")


def read_of(options: argparse.Namespace) -> ReadCorpus:
    return ReadCorpus(
        options.input,
        id_column=options.id_column,
        text_column=options.text_column,
        types=types_of(options.types),
        options=read_options(options),
    )


def build(
    pipeline: beam.Pipeline,
    options: argparse.Namespace,
    config: Model,
    limit: Limit = FIT,
) -> None:
    id_column, text_column = options.id_column or "id", options.text_column
    corpus, unreadable = pipeline | read_of(options).with_exception_handling()
    embed = renamed(embed_of(options, config, limit), options.rename)
    embedding, parents = embed.added()[EMBEDDING], embed.added()[PARENT_ID]
    vectors, refused = corpus | embed.with_exception_handling()
    if options.quantize:
        vectors = vectors | quantize_of(options, embedding, limit)
    if options.report:
        columns = (id_column,), (text_column,), (embedding,)
        vectors | "WriteSample" >> WriteSample(sample_file(options.output), *columns)
    rejects = (unreadable, refused) | "Rejects" >> beam.Flatten()
    rejects_folder = f"{options.output.rstrip('/')}/rejects"
    usable = total_rows((vectors,), "usable")
    read_rows = total_rows((vectors, rejects), "read")
    some_read = None if options.allow_empty else any_read(pipeline, input=read_rows)
    within_limit = rejects | WriteRejects(rejects_folder, options.max_rejects, some_read)
    some = any_usable(pipeline, usable, count_rows(within_limit), options.allow_empty)
    is_sync = options.mode == "sync"
    replacing = ReplaceOptions(
        id_column, parents, rejects if is_sync else None, options.allow_empty, options.keep_previous
    )
    vectors | WriteVectorsToParquet(
        options.output, options.mode, commit_after=some, replacing=replacing
    )
    if options.duckdb:
        vectors | WriteVectorsToDuckDB(
            options.duckdb,
            id_column=id_column,
            mode="sync" if is_sync else "upsert",
            commit_after=some,
            replacing=dataclasses.replace(replacing, keep_previous=False),
        )


def run(options: argparse.Namespace, flags: list[str]) -> None:
    check_mode(options)
    if options.every is None:
        run_once(options, flags)
        return

    def again() -> None:
        run_once(copy.copy(options), flags)

    follow(options.input, options.every, again, f"beam-gpte {PROGRAM.name}")


def run_once(options: argparse.Namespace, flags: list[str]) -> None:
    beam_options, watch = PipelineOptions(flags), Stopwatch()
    use_previous(options)
    later = options.reuse or (options.output if options.every else None)
    local = local_options(beam_options, options.input, later)
    config = config_of(options)
    with no_new_folders(options.dry_run, options.output, options.duckdb, options.report):
        check(options, config)
    loaded: list[Any] = []  # models, held until the run is over: its steps share them
    limit: Limit = FIT
    column = vectors_of(options, config)
    if local:
        loaded += [check_destination(config, column, options.duckdb, quantize=options.quantize)]
    if options.quantize == "int8":
        limit, model = int8_limit(config, column, options.duckdb, options.reuse, local)
        loaded += [model]
    if options.dry_run:
        job = job_of(options, flags, local, config, limit)
        if options.mode == "sync":
            expected = preview(options, config)
            print_summary(expected)
            job = dataclasses.replace(job, new_share=new_share(expected))
        dry_run(job)
        return
    with shown_progress(local, PROGRAM.name, options.input) as runner:
        pipeline = beam.Pipeline(runner=runner, options=beam_options)
        build(pipeline, options, config, limit)
        result = run_pipeline(pipeline, local, options.output)
    del loaded
    seconds = watch.seconds()
    summary = {**summary_of(counters(result), seconds, options), **changes_of(result, options)}
    write_json(f"{options.output.rstrip('/')}/summary.json", summary)
    print_summary(summary)
    if options.report:
        about = run_of(PROGRAM.name, options, flags, result, seconds)
        sample = take_sample(sample_file(options.output))
        vectors = vectors_of(options, config)
        page = embedding_page(
            about, summary, sample, options.text_column, vectors, in_files(config)
        )
        write_page(options.report, page)
        print(f"{'report':>16}  {options.report}")


def config_of(options: argparse.Namespace) -> ModelConfig:
    return model_of(
        options,
        pooling=options.pooling,
        prompt_name=options.prompt_name,
        prompt=options.prompt,
        truncate_dim=options.truncate_dim,
        precision=options.precision,
        long_text=options.long_text,
        chunk_tokens=options.chunk_tokens,
        adapter=options.adapter,
        route=options.route,
    )


def check_mode(options: argparse.Namespace) -> None:
    """Refuse options that are for a sync only.

    Raises:
      InputError: one is given.
    """
    for name in ("allow_empty", "every"):
        if getattr(options, name) and options.mode != "sync":
            raise InputError(f"--{name} is for --mode sync; leave it out, or add that")
    if options.every is not None and options.dry_run:
        raise InputError("--every with --dry_run: nothing changes; leave one of them out")
    if options.every is not None and not options.every > 0:
        raise InputError(f"--every is {options.every}; use seconds, above 0")


def use_previous(options: argparse.Namespace) -> None:
    """Take the vectors of what has not changed from the output, where a sync has one already."""
    is_sync = options.mode == "sync" and options.reuse is None
    if is_sync and committed_files(absolute(options.output), write_parquet):
        options.reuse = options.output


def preview(options: argparse.Namespace, config: ModelConfig) -> dict[str, int]:
    """Count what a sync would change in the folder; the model is not asked what it would reject."""
    id_column, embed = options.id_column or ID, renamed(embed_of(options, config), options.rename)
    names, pipeline = embed.added(), beam.Pipeline(LOCAL_RUNNER)
    added = [names[name] for name in embed.adds() if name != PARENT_HASH]
    with temporary_folder() as scratch:
        corpus, unreadable = pipeline | read_of(options).with_exception_handling()
        check = beam.ParDo(CheckTexts(embed.step, options.text_column, id_column, True))
        rows, refused = corpus | "CheckTexts" >> reject_outputs(check)
        splits = isinstance(config, EncoderConfig) and config.splits
        if splits:
            rows = rows | HashTexts(options.text_column, names[PARENT_HASH])
            added += [id_column, options.text_column]
        rejects = (unreadable, refused) | "Rejects" >> beam.Flatten()
        replacing = ReplaceOptions(id_column, names[PARENT_ID], rejects)
        compared = Compared(tuple(added), splits)
        rows | PreviewSync(absolute(options.output), scratch, compared, replacing)
        return changes(run_pipeline(pipeline, True, scratch), "PreviewSync")


def new_share(expected: dict[str, int]) -> float:
    """Tell the share of a folder that a sync writes: all of it where rows go, from any file."""
    if expected["changed"] or expected["removed"]:
        return 1.0
    return expected["added"] / max(1, sum(expected.values()))


def changes_of(result: Any, options: argparse.Namespace) -> dict[str, int]:
    """Count what a sync has changed: in the folder, and in the database where that differs."""
    if options.mode != "sync":
        return {}
    there = changes(result, "WriteVectorsToParquet")
    if options.duckdb and (other := changes(result, "WriteVectorsToDuckDB")) != there:
        there |= {f"{kind}_in_duckdb": count for kind, count in other.items()}
    return there


def job_of(
    options: argparse.Namespace,
    flags: list[str],
    local: bool,
    config: ModelConfig,
    limit: Limit = FIT,
) -> Job:
    """Describe this program for a dry run."""

    def build_trial(pipeline: beam.Pipeline, trial: argparse.Namespace) -> None:
        build(pipeline, trial, config if trial.model == options.model else trial.model, limit)

    sides = {"input": Side(options.input, options.id_column)}
    return Job(options, flags, local, sides, in_files(config), build_trial)


def check(options: argparse.Namespace, config: ModelConfig) -> None:
    """Check before the job starts what can be checked on this machine."""
    first, present = columns_of(options)
    use_ids(options, present)
    check_present((options.text_column, options.id_column), first, present)
    check_model_exists(config)
    if options.reuse is not None:
        with naming("--reuse"):
            vector_files(absolute(options.reuse))
    check_types(options.types, first, present)
    check_renames([embed_of(options, config)], options.rename)
    check_added([embed_of(options, config)], options.rename, first, present)
    if options.quantize:
        quantize_of(options, vectors_of(options, config))
    check_writable(options.output)
    if options.duckdb:
        check_database(options.duckdb)
    if options.report:
        check_report(options.report)


def columns_of(options: argparse.Namespace) -> tuple[str, list[str]]:
    """Find the first file of the input that has columns, and their names."""
    try:
        return first_columns(options.input, options.text_column, "input", options.encoding)
    except NothingWrittenError:
        if not options.allow_empty:
            raise
        return "", [options.text_column, options.id_column or ID]


def summary_of(
    count: dict[str, int], seconds: float, options: argparse.Namespace
) -> dict[str, Any]:
    reused, resumed = count.get("texts_reused", 0), count.get("texts_resumed", 0)
    return {
        "model": name_of(config_of(options)),
        "texts": count.get("texts", 0) + reused + resumed,
        "tokens": count.get("tokens", 0),
        "seconds": round(seconds, 2),
        "texts_per_second": round(count.get("texts", 0) / seconds, 1),
        "vectors": count.get("vectors", 0) + count.get("vectors_reused", 0),
        "reused": reused,
        "not_reused": by_reason(count, NOT_REUSED),
        "resumed": resumed,
        "truncated": count.get("texts_truncated", 0),
        "rejected": count.get("rejects", 0),
        "reasons": by_reason(count, "rejects: "),
        "files": count_files(options.output),
        "output": options.output,
        "duckdb": options.duckdb,
    }


def by_reason(count: dict[str, int], prefix: str) -> dict[str, int]:
    """Select the counters that begin so, by the rest of their names."""
    return {
        name.removeprefix(prefix): n for name, n in sorted(count.items()) if name.startswith(prefix)
    }


PROGRAM = Program("embed", __doc__, add_options, run)
