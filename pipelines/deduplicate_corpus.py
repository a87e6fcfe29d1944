"""Remove duplicates from a corpus: files of texts, or of texts with vectors, in; what is kept and what is removed out.

    python pipelines/deduplicate_corpus.py --input 'texts/*.jsonl' --output clean --model MODEL
    python pipelines/deduplicate_corpus.py --input 'new/*.jsonl' --output newer --model MODEL --reference clean

Writes Parquet to `<output>/kept/`, `<output>/removed/` (with `duplicate_of`, `score`, `found_by`) and `<output>/pairs/`,
rejected rows with their reasons to `<output>/rejects/`, `<output>/space.npz`, and `<output>/summary.json` with each step's
report; with `--report page.html` a page to look at. Nothing is written unless kept, removed and rejected rows are as many as
the rows read. Flags that --help does not list go to Beam.
"""

import argparse
import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from beam_gpte import (
    Block,
    Deduplicate,
    DeduplicateExact,
    DeduplicateLexical,
    DeduplicateSemantic,
    EncoderConfig,
    InputError,
    ReadCorpus,
    WriteRejects,
    WriteVectorsToParquet,
)
from beam_gpte.cli.runtime import (
    Stopwatch,
    add_report_option,
    count_rows,
    local_options,
    run_of,
    run_pipeline,
    run_program,
    sample_file,
)
from beam_gpte.core.columns import DUPLICATE_OF
from beam_gpte.core.encoder.model_folder import check_model
from beam_gpte.dedup.check_totals import CheckNothingLost
from beam_gpte.dedup.deduplicate import DeduplicationStep
from beam_gpte.dedup.report import report_text
from beam_gpte.files.folders import check_writable, is_remote
from beam_gpte.files.json_values import write_json
from beam_gpte.files.remote_model import check_remote_model, is_remote_model
from beam_gpte.reports.page import check_report, write_page
from beam_gpte.reports.run_pages import deduplication_page
from beam_gpte.reports.sample import WriteSample, take_sample
from beam_gpte.sources.corpus_files import match_files, read_schema

# isort: split
import apache_beam as beam  # after beam_gpte, which keeps Beam's import from warning
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

STEPS = ("exact", "lexical", "semantic")
SCRATCH = ".beam-gpte-scratch-"


class DeduplicateCorpusOptions(PipelineOptions):
    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add(
            "--input",
            required=True,
            nargs="+",
            help="files or globs: Parquet, JSON Lines, CSV, text, also compressed",
        )
        add("--output", required=True, help="folder for the results")
        add(
            "--by",
            default="exact,lexical,semantic",
            help="steps, in this order (default: exact,lexical,semantic)",
        )
        add(
            "--threshold",
            type=float,
            default=0.9,
            help="least cosine of the semantic step (default: 0.9)",
        )
        add(
            "--lexical_threshold",
            type=float,
            default=0.8,
            help="least Jaccard similarity (default: 0.8)",
        )
        add(
            "--mode",
            default="exact",
            help="of the semantic step: exact (default), recall=0.99 or probes=4",
        )
        add(
            "--grouping",
            default="leader",
            help="of the semantic step: leader (default), components or semdedup",
        )
        add(
            "--keep",
            default="first",
            help='first (default), longest, shortest, "COLUMN asc" or "COLUMN desc"',
        )
        add("--scope", help="compare only rows with the same value in this column")
        add(
            "--scratch",
            help="folder on a disk that all workers share, where rows wait; default: in this run's output",
        )
        add(
            "--reference",
            help="a former run's output, or Parquet files: what is near to one of its rows is removed",
        )
        add(
            "--model",
            help="embeds the texts that the first steps leave; not needed if the input has vectors",
        )
        add("--id_column", help="ids, unique in the corpus; default: made from file and row")
        add("--text_column", default="text", help="texts (default: text)")
        add("--embedding_column", default="embedding", help="vectors (default: embedding)")
        add(
            "--max_rejects",
            type=int,
            help="fail, and write no rows, if more are rejected (default: no limit)",
        )
        add_report_option(parser)


def steps_of(
    options: DeduplicateCorpusOptions, space: bytes | None
) -> tuple[DeduplicationStep, ...]:
    names = options.by.split(",")
    for name in names:
        if name not in STEPS:
            raise InputError(f"--by has {name!r}; use {', '.join(STEPS)}")
    shared: dict[str, Any] = {
        "keep": options.keep,
        "scope": options.scope,
        "id_column": options.id_column or "id",
        "text_column": options.text_column,
    }
    made: dict[str, Callable[[], DeduplicationStep]] = {
        "exact": lambda: DeduplicateExact(**shared),
        "lexical": lambda: DeduplicateLexical(options.lexical_threshold, **shared),
        "semantic": lambda: DeduplicateSemantic(
            options.threshold,
            options.mode,
            options.grouping,
            model=options.model,
            space=space,
            embedding_column=options.embedding_column,
            **shared,
        ),
    }
    return tuple(made[name]() for name in names)


def reference_of(options: DeduplicateCorpusOptions) -> tuple[str | None, bytes | None]:
    """The Parquet files of the reference, and the space that lies beside them, if it does."""
    if options.reference is None:
        return None, None
    folder = options.reference.rstrip("/")
    if not FileSystems.match([f"{folder}/kept/*.parquet"])[0].metadata_list:
        return options.reference, None
    space = f"{folder}/space.npz"
    if not FileSystems.exists(space):
        return f"{folder}/kept/*.parquet", None
    with FileSystems.open(space) as file:
        return f"{folder}/kept/*.parquet", file.read()


def check(options: DeduplicateCorpusOptions) -> None:
    """Refuse, before the job starts, files, columns and models that are not there."""
    first = match_files(options.input)[0].path
    present = read_schema(first, text_column=options.text_column)
    wanted = [options.text_column, options.id_column, options.scope]
    if "semantic" in options.by.split(",") and options.model is None:
        if options.embedding_column not in present:
            raise InputError(
                f"no column {options.embedding_column!r} in {first}; give --model, which makes the vectors"
            )
        wanted.append(options.embedding_column)
    for column in wanted:
        if column is not None and column not in present:
            raise InputError(f"no column {column!r} in {first}; it has {', '.join(present)}")
    if options.model is not None and is_remote_model(options.model):
        check_remote_model(options.model)
    elif options.model is not None:
        check_model(EncoderConfig(options.model))
    for name in ("kept", "removed", "pairs"):
        check_writable(f"{options.output.rstrip('/')}/{name}")
    if options.report is not None:
        check_report(options.report)


@contextlib.contextmanager
def scratch_folder(options: DeduplicateCorpusOptions, local: bool) -> Iterator[str | None]:
    """The folder that rows wait in: what is asked for; else on one machine, and with its output there, one in the output."""
    output = options.output.rstrip("/")
    if options.scratch is not None or not local or is_remote(output):
        yield options.scratch
        return
    for leftover in Path(output).glob(f"{SCRATCH}*"):  # of a run that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=SCRATCH, dir=output, ignore_cleanup_errors=True
    ) as folder:
        yield folder


def build(pipeline: beam.Pipeline, options: DeduplicateCorpusOptions, scratch: str | None) -> None:
    output = options.output.rstrip("/")
    files, space = reference_of(options)
    names = {"id_column": options.id_column, "text_column": options.text_column}
    rows, unreadable = (
        pipeline | "ReadCorpus" >> ReadCorpus(options.input, **names).with_exception_handling()
    )
    reference = None if files is None else pipeline | "ReadReference" >> ReadCorpus(files, **names)
    steps = Deduplicate(steps_of(options, space), reference, scratch)
    result = rows | steps.with_exception_handling()
    if options.report:
        columns = (
            (options.id_column or "id",),
            (options.text_column,),
            (options.embedding_column,),
            (DUPLICATE_OF,),
        )
        decided = (result.kept, result.removed) | "KeptAndRemoved" >> beam.Flatten()
        decided | "WriteSample" >> WriteSample(sample_file(output), *columns)
    removed = result.removed
    if options.model is not None:  # some were removed before they had a vector
        without = beam.Map(lambda block: block.without_columns([options.embedding_column]))
        removed = removed | "WithoutVectors" >> without.with_output_types(Block)
    rejects = (unreadable, result.rejects) | "Rejects" >> beam.Flatten()
    within_limit = rejects | WriteRejects(f"{output}/rejects", options.max_rejects)
    totals = (rows, result) | CheckNothingLost(count_rows(within_limit))
    for name, blocks in (("kept", result.kept), ("removed", removed), ("pairs", result.pairs)):
        blocks | f"Write_{name}" >> WriteVectorsToParquet(f"{output}/{name}", commit_after=totals)
    if result.space is not None:
        result.space | "WriteSpace" >> beam.Map(write_bytes, f"{output}/space.npz")
    summary = totals | beam.Map(
        with_steps, options.by.split(","), beam.pvalue.AsList(result.report)
    )
    summary | "WriteSummary" >> beam.Map(
        lambda summary: write_json(f"{output}/summary.json", summary)
    )


def with_steps(totals: dict[str, int], order: list[str], reports: list[dict]) -> dict[str, Any]:
    return {**totals, "steps": sorted(reports, key=lambda report: order.index(report["step"]))}


def write_bytes(content: bytes, path: str) -> None:
    with FileSystems.create(
        path, "application/octet-stream", compression_type="uncompressed"
    ) as file:
        file.write(content)


def main(argv: list[str]) -> None:
    options = PipelineOptions(argv)
    local, own, watch = (
        local_options(options),
        options.view_as(DeduplicateCorpusOptions),
        Stopwatch(),
    )
    steps_of(own, None)
    check(own)
    pipeline = beam.Pipeline(options=options)
    with scratch_folder(own, local) as scratch:
        build(pipeline, own, scratch)
        result = run_pipeline(pipeline, local)
    seconds = watch.seconds()
    path = f"{own.output.rstrip('/')}/summary.json"
    with FileSystems.open(path) as file:
        summary = json.load(file)
    for step in summary["steps"]:
        print(report_text(step) + "\n")
    rejected = f", {summary['rejected']:,} rejected" if summary["rejected"] else ""
    print(
        f"{summary['rows']:,} rows: {summary['kept']:,} kept, {summary['removed']:,} removed{rejected}"
    )
    print(f"{seconds:.0f} s; all figures in {path}")
    if own.report is not None:
        run, sample = (
            run_of("deduplicate_corpus.py", own, result, seconds),
            take_sample(sample_file(own.output)),
        )
        write_page(
            own.report,
            deduplication_page(run, summary, sample, own.text_column, own.embedding_column),
        )
        print(f"report in {own.report}")


if __name__ == "__main__":
    run_program(main)
