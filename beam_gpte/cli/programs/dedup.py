r"""Remove duplicates from a corpus: read files of texts, or of texts with vectors, and split them.

    beam-gpte dedup --input 'texts/*.jsonl' --output clean --model MODEL
    beam-gpte dedup --input 'new/*.jsonl' --output newer --model MODEL --reference clean

Writes Parquet to `<output>/kept/`, `<output>/removed/` (with `duplicate_of`, `score`, `found_by`)
and `<output>/pairs/`, with `--annotate` also all rows with their clusters to `<output>/annotated/`,
with `--spans` what was cut to `<output>/cut/` and rows of which nothing is left, as they came, to
`<output>/emptied/`, with `--signatures` those of the kept texts to `<output>/signatures/`, rejected
rows with their reasons to `<output>/rejects/`, `<output>/saved_index.npz`, and
`<output>/summary.json` with each step's report; with `--report page.html` also a report page.
Nothing is written unless kept, removed, emptied and rejected rows add up to the rows read, and if
no row is read, or all are rejected: then the previous output stays and the exit code is 3.
"""

import argparse
import contextlib
import glob
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, get_args

import numpy as np

from beam_gpte import (
    Columns,
    Deduplicate,
    DeduplicateExact,
    DeduplicateLexical,
    DeduplicateSemantic,
    InputError,
    ReadCorpus,
    ReadOptions,
    SemanticOptions,
    WriteRejects,
    WriteVectorsToParquet,
)
from beam_gpte.cli.any_rows import (
    any_read,
    check_present,
    check_usable,
    first_columns,
    total_rows,
)
from beam_gpte.cli.arguments import Program
from beam_gpte.cli.corpus_options import (
    FILES,
    add_column_options,
    add_max_rejects_option,
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
from beam_gpte.cli.deduplication.signatures import (
    SIGNATURES,
    add_history_option,
    add_signatures_option,
    check_history,
    history_of,
    signatures_of,
)
from beam_gpte.cli.deduplication.spans import add_span_options, check_spans, cut_spans
from beam_gpte.cli.forecast.dry_run import add_dry_run_option, dry_run, no_new_folders
from beam_gpte.cli.forecast.jobs import Job, Side
from beam_gpte.cli.forecast.squares import comparing_seconds
from beam_gpte.cli.models.endpoint_options import (
    ModelConfig,
    add_endpoint_options,
    in_files,
    model_of,
)
from beam_gpte.cli.progress import shown_progress
from beam_gpte.cli.runtime import (
    Stopwatch,
    add_report_option,
    check_model_exists,
    count_rows,
    local_options,
    run_of,
    run_pipeline,
    sample_file,
)
from beam_gpte.core.columns import DUPLICATE_OF
from beam_gpte.core.errors import naming
from beam_gpte.core.text.minhash import Measure
from beam_gpte.dedup import search_plan
from beam_gpte.dedup.checks import CheckNothingLost, RowsAndResults
from beam_gpte.dedup.deduplicate import DeduplicationStep
from beam_gpte.dedup.report import report_text
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.rejects import merge_rejects
from beam_gpte.files.folders import absolute, check_writable, is_remote
from beam_gpte.files.json_values import write_json
from beam_gpte.files.scratch import ScratchFolder
from beam_gpte.reports.page import check_report, write_page
from beam_gpte.reports.run_pages import deduplication_page
from beam_gpte.reports.sample import WriteSample, take_sample
from beam_gpte.sinks import write_parquet
from beam_gpte.sources.match_files import match_files, pattern_list
from beam_gpte.sources.output_columns import committed_files

# isort: split
import apache_beam as beam  # after beam_gpte, which keeps Beam's import from warning
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

STEPS = ("exact", "lexical", "semantic")
SCRATCH = ".beam-gpte-scratch-"


def add_options(parser: argparse.ArgumentParser) -> None:
    reading = parser.add_argument_group("input")
    reading.add_argument("--input", required=True, nargs="+", help=FILES)
    add_column_options(reading)
    reading.add_argument("--embedding_column", default="embedding", help="vectors")
    add_reading_options(reading)
    reading.add_argument(
        "--reference",
        help="a previous run's output, or Parquet files: rows near to one of them are removed",
    )
    add_history_option(reading)
    add_span_options(parser.add_argument_group("repeated spans"))
    steps = parser.add_argument_group("steps")
    steps.add_argument("--by", default="exact,lexical,semantic", help="steps, in this order")
    steps.add_argument(
        "--model",
        help="embeds the texts that the first steps keep; not needed if the input has vectors",
    )
    add_endpoint_options(steps)
    steps.add_argument(
        "--threshold", type=float, default=0.9, help="minimum cosine of the semantic step"
    )
    steps.add_argument(
        "--target_size",
        type=int,
        metavar="ROWS",
        help="about how many rows the semantic step keeps: it chooses a cosine from --threshold on",
    )
    steps.add_argument(
        "--target_rate",
        type=float,
        metavar="SHARE",
        help="about which share of its rows it removes, in place of --target_size",
    )
    steps.add_argument(
        "--lexical_threshold",
        type=float,
        default=0.8,
        help="minimum similarity of the lexical step",
    )
    steps.add_argument(
        "--lexical_similarity",
        choices=get_args(Measure),
        default="jaccard",
        help="of the lexical step: jaccard, or containment of one text in another",
    )
    steps.add_argument(
        "--mode", default="exact", help="of the semantic step: exact, recall=0.99 or probes=4"
    )
    steps.add_argument(
        "--grouping",
        default="leader",
        help="of the semantic step: leader, components or semdedup",
    )
    steps.add_argument(
        "--keep",
        help='first, longest, shortest, "COLUMN asc" or "COLUMN desc" (default: first; longest in '
        "a lexical step by containment)",
    )
    steps.add_argument("--scope", help="compare only rows with the same value in this column")
    writing = parser.add_argument_group("output")
    writing.add_argument("--output", required=True, help="folder for the results")
    writing.add_argument(
        "--annotate",
        action="store_true",
        help="write all rows with cluster_id, cluster_size and is_representative, too",
    )
    add_signatures_option(writing)
    add_rename_option(writing, "duplicate_of, score or found_by")
    add_max_rejects_option(writing, "rows")
    writing.add_argument(
        "--scratch",
        help="folder for rows on a disk that all workers share (default: in this run's output)",
    )
    add_report_option(writing)
    add_dry_run_option(writing)


def columns_of(options: argparse.Namespace) -> Columns:
    return Columns(options.id_column or "id", options.text_column, options.embedding_column)


def config_of(options: argparse.Namespace) -> ModelConfig | None:
    if not isinstance(options.model, str):
        return options.model  # none, or a stand-in
    return model_of(options)


def steps_of(
    options: argparse.Namespace,
    saved_index: bytes | None,
    history: beam.PCollection | None = None,
) -> tuple[DeduplicationStep, ...]:
    names = options.by.split(",")
    for name in names:
        if name not in STEPS:
            raise InputError(f"--by has {name!r}; use {', '.join(STEPS)}")
    if "semantic" not in names:
        for name in ("target_size", "target_rate"):
            if getattr(options, name) is not None:
                raise InputError(f"--{name} is of the semantic step, which --by leaves out")
    shared: dict[str, Any] = {"scope": options.scope, "columns": columns_of(options)}
    if options.keep is not None:
        shared["keep"] = options.keep
    steps: dict[str, Callable[[], DeduplicationStep]] = {
        "exact": lambda: DeduplicateExact(**shared),
        "lexical": lambda: DeduplicateLexical(
            options.lexical_threshold,
            similarity=options.lexical_similarity,
            history=history,
            **shared,
        ),
        "semantic": lambda: DeduplicateSemantic(
            options.threshold,
            config_of(options),
            mode=options.mode,
            grouping=options.grouping,
            options=SemanticOptions(
                saved_index=saved_index,
                target_size=options.target_size,
                target_rate=options.target_rate,
            ),
            **shared,
        ),
    }
    return tuple(steps[name]() for name in names)


class Reference(NamedTuple):
    """Name the files of the reference, and their ids; hold the saved index of a run."""

    files: str | list[str]
    id_column: str | None
    saved_index: bytes | None = None


def reference_of(options: argparse.Namespace) -> Reference | None:
    """Find the files of the reference, and the saved index if it is a previous run's output."""
    if options.reference is None:
        return None
    folder = options.reference.rstrip("/")
    if not committed_files(f"{folder}/kept", write_parquet):
        return Reference(options.reference, options.id_column)
    kept, saved_index = f"{glob.escape(folder)}/kept/*.parquet", f"{folder}/saved_index.npz"
    found = Reference(kept, options.id_column or "id")
    if not FileSystems.exists(saved_index):
        return found
    with FileSystems.open(saved_index) as file:
        return found._replace(saved_index=file.read())


def check_columns(options: argparse.Namespace, first: str, present: list[str]) -> None:
    check_types(options.types, first, present)
    deduplicate = Deduplicate(steps_of(options, None), annotate=options.annotate)
    check_renames([deduplicate], options.rename)
    check_added([deduplicate], options.rename, first, present)
    added = renamed(deduplicate, options.rename).added()
    if options.report is not None and added[DUPLICATE_OF] != DUPLICATE_OF:
        raise InputError("--report reads duplicate_of; leave it out of --rename")


def folders_of(options: argparse.Namespace) -> list[str]:
    """Name the folders of the Parquet files."""
    return [f"{options.output.rstrip('/')}/{name}" for name in written_by(options)]


def written_by(options: argparse.Namespace) -> tuple[str, ...]:
    """Name the results that are written as Parquet files."""
    annotated = ("annotated",) if options.annotate else ()
    of_spans = ("emptied", "cut") if options.spans else ()
    signatures = (SIGNATURES,) if options.signatures else ()
    return ("kept", "removed", "pairs", *annotated, *of_spans, *signatures)


def check(options: argparse.Namespace) -> Reference | None:
    """Check before the job starts that steps, files, columns and model exist.

    Returns:
      The reference, if there is one.

    Raises:
      InputError: one of them does not.
    """
    steps_of(options, None)
    check_history(options)
    first, present = first_columns(options.input, options.text_column, "input", options.encoding)
    use_ids(options, present)
    check_columns(options, first, present)
    required = [options.text_column, options.id_column, options.scope]
    if "semantic" in options.by.split(",") and options.model is None:
        if options.embedding_column not in present:
            raise InputError(
                f"no column {options.embedding_column!r} in {first}; give --model, which makes "
                "the vectors"
            )
        required.append(options.embedding_column)
    check_present(required, first, present)
    check_spans(options, columns_of(options), first, present)
    if (model := config_of(options)) is not None:
        check_model_exists(model)
    reference = reference_of(options)
    if reference is not None:
        with naming("--reference"):
            match_files(reference.files, [])
    for folder in folders_of(options):
        check_writable(folder)
    if options.report is not None:
        check_report(options.report)
    return reference


@contextlib.contextmanager
def scratch_folder(options: argparse.Namespace, local: bool) -> Iterator[str | None]:
    """Provide the folder for rows on a disk: that of --scratch, or one within a local output.

    None on other runners than the local one, and where the output is remote.
    """
    output = options.output.rstrip("/")
    if options.scratch is not None or not local or is_remote(output):
        yield options.scratch
        return
    with contextlib.closing(ScratchFolder(output, SCRATCH)) as folder:
        yield str(folder.path)


def deduplication(
    pipeline: beam.Pipeline,
    options: argparse.Namespace,
    output: str,
    scratch: str | None,
    known: Reference | None,
) -> beam.PTransform:
    """Make the transform of all steps, with what they compare with."""
    history = history_of(pipeline, options)
    steps = steps_of(options, None if known is None else known.saved_index, history)
    whole: DeduplicationStep | Deduplicate = steps[0]
    if history is None:
        reference = read_reference(pipeline, options, known)
        whole = Deduplicate(steps, reference, scratch, options.annotate)
    deduplicate = renamed(whole, options.rename).with_exception_handling()
    if not options.report:
        return deduplicate
    columns = columns_of(options)
    sampled = (columns.id,), (columns.text,), (columns.embedding,), (DUPLICATE_OF,)
    return deduplicate.sampled_by(WriteSample(sample_file(output), *sampled))


def read_reference(
    pipeline: beam.Pipeline, options: argparse.Namespace, known: Reference | None
) -> beam.PCollection | None:
    if known is None:
        return None
    read = ReadCorpus(
        known.files,
        id_column=known.id_column,
        text_column=options.text_column,
        options=ReadOptions(read_options(options).encoding),
    )
    return pipeline | "ReadReference" >> read


def build(
    pipeline: beam.Pipeline,
    options: argparse.Namespace,
    scratch: str | None,
    known: Reference | None,
) -> None:
    output, columns = absolute(options.output.rstrip("/")), columns_of(options)
    names = {"id_column": options.id_column, "text_column": options.text_column}
    names |= {"options": read_options(options)}
    read = ReadCorpus(options.input, **names, types=types_of(options.types))
    rows, unreadable = pipeline | "ReadCorpus" >> read.with_exception_handling()
    cut = cut_spans(rows, options, columns)
    deduplicate = deduplication(pipeline, options, output, scratch, known)
    result = cut.rows | deduplicate
    results = {**cut.results, **result._asdict()}
    if options.signatures:
        results[SIGNATURES] = signatures_of(result.kept, options, columns)
    of_rows = merge_rejects([*cut.rejects, result.rejects])
    rejects = (unreadable, of_rows) | "Rejects" >> beam.Flatten()
    some_read = any_read(pipeline, input=total_rows((rows, unreadable), "read"))
    within_limit = rejects | WriteRejects(f"{output}/rejects", options.max_rejects, some_read)
    emptied = tuple(blocks for name, blocks in cut.results.items() if name == "emptied")
    parts = RowsAndResults(rows, result.kept, result.removed, of_rows, emptied)
    totals = parts | CheckNothingLost(count_rows(within_limit)) | beam.Map(check_totals)
    for name in written_by(options):
        write = WriteVectorsToParquet(f"{output}/{name}", "mirror", commit_after=totals)
        results[name] | f"Write_{name}" >> write
    if result.saved_index is not None:
        after = beam.pvalue.AsIter(totals)
        write_index = beam.Map(write_bytes, f"{output}/saved_index.npz", after)
        result.saved_index | "WriteSavedIndex" >> write_index
    reports = beam.pvalue.AsList(result.report)
    arguments = beam.pvalue.AsSingleton(totals), options.by.split(","), reports
    summary = pipeline | "Summary" >> FromSideInputs(dict, with_steps, *arguments)
    summary | "WriteSummary" >> beam.Map(write_summary, f"{output}/summary.json")


def job_of(
    options: argparse.Namespace, flags: list[str], local: bool, known: Reference | None
) -> Job:
    """Describe this program for a dry run."""
    sides = {"input": Side(options.input, options.id_column)}
    if known is not None:
        sides["reference"] = Side(pattern_list(known.files), known.id_column)

    def build_trial(pipeline: beam.Pipeline, trial: argparse.Namespace) -> None:
        reference = known and known._replace(files=trial.reference)
        scratch = options.scratch is not None or not is_remote(options.output)
        build(pipeline, trial, trial.scratch if scratch else None, reference)

    def squares(rows: list[int], vectors: np.ndarray) -> float:
        return comparing_seconds(vectors, sum(rows), options.threshold)

    compares = "semantic" in options.by.split(",") and options.scope is None
    config = in_files(config_of(options))
    return Job(
        options,
        flags,
        local,
        sides,
        config,
        build_trial,
        vectors=options.embedding_column,
        squares=squares if compares else None,
        plan_rows=search_plan.SAMPLE if "semantic" in options.by.split(",") else None,
        compares=True,
    )


def check_totals(totals: dict[str, int]) -> dict[str, int]:
    usable = totals["kept"] + totals["removed"] + totals.get("emptied", 0)
    check_usable(usable, totals["rejected"])
    return totals


def with_steps(totals: dict[str, int], order: list[str], reports: list[dict]) -> dict[str, Any]:
    return {**totals, "steps": sorted(reports, key=lambda report: order.index(report["step"]))}


def write_summary(summary: dict[str, Any], path: str) -> None:
    write_json(path, summary)


def write_bytes(content: bytes, path: str, *barrier: Any) -> None:
    with FileSystems.create(
        path, "application/octet-stream", compression_type="uncompressed"
    ) as file:
        file.write(content)


def run(options: argparse.Namespace, flags: list[str]) -> None:
    beam_options, watch = PipelineOptions(flags), Stopwatch()
    local = local_options(beam_options, options.input, options.reference)
    with no_new_folders(options.dry_run, *folders_of(options), options.report):
        reference = check(options)
    if options.dry_run:
        dry_run(job_of(options, flags, local, reference))
        return
    with (
        scratch_folder(options, local) as scratch,
        shown_progress(local, PROGRAM.name, options.input) as runner,
    ):
        pipeline = beam.Pipeline(runner=runner, options=beam_options)
        build(pipeline, options, scratch, reference)
        result = run_pipeline(pipeline, local, options.output)
    seconds = watch.seconds()
    path = f"{options.output.rstrip('/')}/summary.json"
    with FileSystems.open(path) as file:
        summary = json.load(file)
    print_summary(summary)
    print(f"{seconds:.0f} s; all figures in {path}")
    if options.report is not None:
        about = run_of(PROGRAM.name, options, flags, result, seconds)
        sample, columns = take_sample(sample_file(options.output)), columns_of(options)
        config = in_files(config_of(options))
        page = deduplication_page(about, summary, sample, columns.text, columns.embedding, config)
        write_page(options.report, page)
        print(f"report in {options.report}")


def print_summary(summary: dict[str, Any]) -> None:
    for step in summary["steps"]:
        print(report_text(step) + "\n")
    rejected = f", {summary['rejected']:,} rejected" if summary["rejected"] else ""
    emptied = f", {summary['emptied']:,} emptied" if summary.get("emptied") else ""
    kept, removed = f"{summary['kept']:,} kept", f"{summary['removed']:,} removed"
    print(f"{summary['rows']:,} rows: {kept}, {removed}{emptied}{rejected}")


PROGRAM = Program("dedup", __doc__, add_options, run)
