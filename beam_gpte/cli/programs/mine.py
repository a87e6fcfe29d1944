r"""Find the sentences of two corpora that translate one another, with or without given vectors.

    beam-gpte mine --source 'de/*.jsonl' --target 'en/*.jsonl' --output mined \
        --model models/multilingual-e5-small --prompt_name query

Writes pairs as Parquet to `<output>/bitext/`, with `--tsv` also to `<output>/bitext.tsv` (margin,
source, target, the largest margin first, as LASER does), with `--tmx de en` to
`<output>/bitext.tmx`, a translation memory, and with `--moses de en` to `<output>/bitext.de` and
`<output>/bitext.en`, one line per pair; rejected rows with their reasons to `<output>/rejects/`,
and `<output>/summary.json`. With `--gold`, a file of `source_id` and
`target_id`, precision and recall are printed; `--report page.html` writes a report page. If no row
of a side is read, or all are rejected, the previous pairs stay and the exit code is 3.
"""

import argparse
import json
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from beam_gpte import (
    BitextOutput,
    Block,
    Columns,
    Comparison,
    IdentifyLanguage,
    InputError,
    MineBitext,
    ReadCorpus,
    SplitSentences,
    WriteMoses,
    WriteRejects,
    WriteTmx,
    WriteVectorsToParquet,
)
from beam_gpte.cli.any_rows import (
    any_read,
    check_present,
    check_usable,
    first_columns,
    total_rows,
)
from beam_gpte.cli.arguments import Program, add_adapter_option
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
from beam_gpte.cli.forecast.dry_run import add_dry_run_option, dry_run, no_new_folders
from beam_gpte.cli.forecast.jobs import Job, Side
from beam_gpte.cli.forecast.squares import mining_seconds
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
    gold_file,
    local_options,
    run_of,
    run_pipeline,
    sample_file,
)
from beam_gpte.core.columns import SIDES
from beam_gpte.core.errors import naming
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.files.folders import absolute, check_writable
from beam_gpte.files.json_values import write_json
from beam_gpte.neighbors import plan
from beam_gpte.reports.missed_pairs import MissedPair, WriteGoldRows, missed_pairs, read_gold
from beam_gpte.reports.page import check_report, write_page
from beam_gpte.reports.run_pages import bitext_page
from beam_gpte.reports.sample import WriteSample, take_sample
from beam_gpte.sinks import write_parquet
from beam_gpte.sources.output_columns import committed_files

# isort: split
import apache_beam as beam  # after beam_gpte, which keeps Beam's import from warning
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

PAIR = ["source_id", "target_id"]


def add_options(parser: argparse.ArgumentParser) -> None:
    add_input_options(parser)
    model = parser.add_argument_group("model")
    model.add_argument("--model", help="embeds both sides; not needed if they have vectors")
    add_adapter_option(model)
    model.add_argument(
        "--prompt_name", help="a prompt that the model defines, for both sides, e.g. query"
    )
    add_endpoint_options(model)
    add_pair_options(parser)
    writing = parser.add_argument_group("output")
    writing.add_argument("--output", required=True, help="folder for the results")
    add_rename_option(writing, "the columns of --split_sentences and of the languages")
    add_max_rejects_option(writing, "pairs")
    writing.add_argument("--tsv", action="store_true", help="write bitext.tsv too")
    codes: dict[str, Any] = {"nargs": 2, "metavar": ("SOURCE", "TARGET")}
    writing.add_argument(
        "--tmx", **codes, help="write bitext.tmx too; the codes of both languages, e.g. de en"
    )
    writing.add_argument(
        "--moses",
        **codes,
        help="write bitext.SOURCE, bitext.TARGET and bitext.ids.jsonl too, line by line",
    )
    writing.add_argument("--gold", help="JSON Lines of source_id and target_id to compare with")
    add_report_option(writing)
    add_dry_run_option(writing)


def add_input_options(parser: argparse.ArgumentParser) -> None:
    reading = parser.add_argument_group("input")
    reading.add_argument("--source", required=True, nargs="+", help=FILES)
    reading.add_argument(
        "--target", required=True, nargs="+", help="files or globs, as for --source"
    )
    add_column_options(reading)
    reading.add_argument("--embedding_column", default="embedding", help="vectors")
    add_reading_options(reading)
    reading.add_argument(
        "--split_sentences",
        action="store_true",
        help="split texts into sentences; needs both languages",
    )
    for side in SIDES:
        reading.add_argument(
            f"--{side}_lang",
            help=f"ISO 639 code: {side} rows in another language are rejected",
        )


def add_pair_options(parser: argparse.ArgumentParser) -> None:
    pairs = parser.add_argument_group("pairs")
    pairs.add_argument("--k", type=int, default=4, help="neighbors")
    pairs.add_argument("--margin", default="distance", help="distance, ratio or absolute")
    pairs.add_argument(
        "--retrieval",
        default="intersection",
        help="intersection, max, forward, backward or union",
    )
    pairs.add_argument("--threshold", default="0.15", help='minimum margin, or "posterior"')
    pairs.add_argument(
        "--no_centering", action="store_true", help="do not center the vectors, as LASER does"
    )
    pairs.add_argument(
        "--max_length_ratio",
        type=float,
        default=2.0,
        help="of characters, divided by the median; 0 for no limit",
    )
    pairs.add_argument(
        "--scope", help="compare only rows with the same value here, such as the document"
    )
    pairs.add_argument(
        "--mine_unmatched",
        action="store_true",
        help="afterwards compare all rows that have no pair within their scope",
    )
    pairs.add_argument(
        "--search", default="auto", help="exact, cells, or auto: exact as long as that pays"
    )


def config_of(options: argparse.Namespace) -> ModelConfig | None:
    if not isinstance(options.model, str):
        return options.model  # none, or a stand-in
    return model_of(
        options,
        prompt_name=options.prompt_name,
        adapter=options.adapter,
        route=options.route,
    )


def columns_of(options: argparse.Namespace) -> Columns:
    return Columns(options.id_column or "id", options.text_column, options.embedding_column)


def transform_of(options: argparse.Namespace) -> MineBitext:
    threshold: float | str = options.threshold
    if threshold != "posterior":
        try:
            threshold = float(options.threshold)
        except ValueError as error:
            raise InputError(
                f'--threshold is {options.threshold!r}; use a number or "posterior"'
            ) from error
    return MineBitext(
        k=options.k,
        margin=options.margin,
        retrieval=options.retrieval,
        threshold=threshold,
        scope=options.scope,
        mine_unmatched=options.mine_unmatched,
        model=config_of(options),
        comparison=Comparison(center=not options.no_centering, search=options.search),
        output=BitextOutput(
            keep_vectors=options.report is not None,
            max_length_ratio=options.max_length_ratio or None,
        ),
        columns=columns_of(options),
    )


def check(options: argparse.Namespace) -> pl.DataFrame | None:
    """Check before the job starts what can be checked on this machine; return the gold pairs."""
    for language in (options.source_lang, options.target_lang):
        check_language(options, language)
    of_sides = [transform for side in SIDES for transform in added_by(options, side)]
    check_renames(of_sides, options.rename)
    files = {
        side: first_columns(getattr(options, side), options.text_column, side, options.encoding)
        for side in SIDES
    }
    in_both = set.intersection(*(set(present) for _, present in files.values()))
    use_ids(options, in_both)
    for side, (file, present) in files.items():
        check_columns(options, side, file, present)
    for name in ("prompt_name", "adapter", "route"):
        if options.model is None and getattr(options, name) is not None:
            raise InputError(f"--{name} is for --model; leave it out, or give --model")
    if (model := config_of(options)) is not None:
        check_model_exists(model)
    files_of(options, options.output)
    check_writable(f"{options.output.rstrip('/')}/bitext")
    gold = None
    if options.gold is not None:
        with naming("--gold"):
            gold = read_gold(options.gold)
    if options.report is not None:
        check_report(options.report)
    return gold


def check_columns(options: argparse.Namespace, side: str, file: str, present: list[str]) -> None:
    if options.model is None and options.embedding_column not in present:
        raise InputError(
            f"no column {options.embedding_column!r} in {file}; give --model to make the vectors"
        )
    check_present((options.text_column, options.id_column, options.scope), file, present)
    check_types(options.types, file, present)
    check_added(added_by(options, side), options.rename, file, present)


def check_language(options: argparse.Namespace, language: str | None) -> None:
    IdentifyLanguage(keep=None if language is None else (language,))
    if not options.split_sentences:
        return
    if language is None:
        raise InputError(
            "--split_sentences depends on the language; give --source_lang and --target_lang"
        )
    SplitSentences(language)
    if options.model is None:
        raise InputError("--split_sentences makes new texts without vectors; give --model")


def added_by(options: argparse.Namespace, side: str) -> list[SplitSentences | IdentifyLanguage]:
    """Make the transforms that add columns to the rows of a side."""
    language, text_column = getattr(options, f"{side}_lang"), options.text_column
    if language is None:
        return []
    split = SplitSentences(language, text_column, options.id_column or "id")
    identify = IdentifyLanguage(keep=(language,), text_column=text_column)
    return [split, identify] if options.split_sentences else [identify]


class Sentences(NamedTuple):
    """Hold the sentences of a side, and what was rejected on the way."""

    rows: beam.PCollection
    rejects: list[beam.PCollection]


def read_side(pipeline: beam.Pipeline, options: argparse.Namespace, side: str) -> Sentences:
    read = ReadCorpus(
        getattr(options, side),
        id_column=options.id_column,
        text_column=options.text_column,
        types=types_of(options.types),
        options=read_options(options),
    )
    rows, unreadable = pipeline | f"Read_{side}" >> read.with_exception_handling()
    rejects = [unreadable]
    for transform in added_by(options, side):
        named = renamed(transform, options.rename).with_exception_handling()
        rows, others = rows | f"{transform.step}_{side}" >> named
        rejects.append(others)
    return Sentences(rows, rejects)


def build(pipeline: beam.Pipeline, options: argparse.Namespace, gold: pl.DataFrame | None) -> None:
    output = absolute(options.output.rstrip("/"))
    source, target = (read_side(pipeline, options, side) for side in SIDES)
    mine = transform_of(options).with_exception_handling()
    result = {"source": source.rows, "target": target.rows} | mine
    if options.report is not None and gold is not None:
        write = WriteGoldRows(gold_file(output), gold, columns_of(options))
        {"source": source.rows, "target": target.rows} | write
    rejects = (*source.rejects, *target.rejects, result.rejects) | "Rejects" >> beam.Flatten()
    sides = {"source": source, "target": target}
    totals = {name: total_rows((side.rows, *side.rejects), name) for name, side in sides.items()}
    some_read = any_read(pipeline, **totals)
    within_limit = rejects | WriteRejects(f"{output}/rejects", options.max_rejects, some_read)
    pairs = result.pairs
    if options.report is not None:  # a sample of the pairs keeps its vectors, for a map
        vectors = tuple(f"{side}_{options.embedding_column}" for side in SIDES)
        sample = WriteSample(
            sample_file(output), tuple(PAIR), ("source_text", "target_text"), vectors
        )
        pairs | "WriteSample" >> sample
        drop = beam.Map(lambda block: block.without_columns(vectors)).with_output_types(Block)
        pairs = pairs | "WithoutVectors" >> drop
    make = FromSideInputs(
        dict, with_report, count_rows(within_limit), beam.pvalue.AsSingleton(result.report)
    )
    summary = pipeline | "Summary" >> make
    pairs | "WritePairs" >> WriteVectorsToParquet(
        f"{output}/bitext", "mirror", commit_after=summary
    )
    for files in files_of(options, output, summary):
        pairs | files
    summary | "WriteSummary" >> beam.Map(
        lambda summary: write_json(f"{output}/summary.json", summary)
    )


def files_of(
    options: argparse.Namespace, output: str, after: beam.PCollection | None = None
) -> list[WriteTmx | WriteMoses]:
    """Make the sinks of files for tools of translators."""
    files: list[WriteTmx | WriteMoses] = []
    if options.tmx:
        source, target = options.tmx
        files.append(WriteTmx(f"{output}/bitext.tmx", source, target, commit_after=after))
    if options.moses:
        source, target = options.moses
        files.append(WriteMoses(f"{output}/bitext", source, target, commit_after=after))
    return files


def job_of(options: argparse.Namespace, flags: list[str], local: bool) -> Job:
    """Describe this program for a dry run."""

    def finish(trial: argparse.Namespace) -> None:
        if trial.tsv:
            write_tsv(read_pairs(trial.output), f"{trial.output}/bitext.tsv")

    def squares(rows: list[int], vectors: np.ndarray) -> float:
        return mining_seconds((rows[0], rows[1]), vectors.shape[1], options.k)

    return Job(
        options,
        flags,
        local,
        {side: Side(getattr(options, side), options.id_column) for side in SIDES},
        in_files(config_of(options)),
        lambda pipeline, trial: build(pipeline, trial, None),
        finish,
        options.embedding_column,
        squares if options.scope is None else None,
        plan_rows=len(SIDES) * plan.SAMPLE,
        pairs="bitext",
        compares=True,
    )


def with_report(rejected: int, report: dict[str, Any]) -> dict[str, Any]:
    for side in SIDES:
        check_usable(report[f"{side}_rows"], rejected, f"{side} ")
    return {**report, "rejected": rejected}


def read_pairs(output: str) -> pl.DataFrame:
    frames = []
    for path in committed_files(f"{output}/bitext", write_parquet):
        with FileSystems.open(path, compression_type="uncompressed") as file:
            frames.append(pl.read_parquet(file.read()))
    schema = {
        **dict.fromkeys((*PAIR, "source_text", "target_text"), pl.String),
        "margin": pl.Float32,
    }
    whole = pl.concat(frames) if frames else pl.DataFrame(schema=schema)
    return whole.sort("margin", *PAIR, descending=[True, False, False])


def write_tsv(pairs: pl.DataFrame, path: str) -> None:
    """Write pairs as LASER does: no header, no quotes; tabs and line breaks become blanks."""
    texts = [
        pl.col(name).str.replace_all(r"[\t\r\n]+", " ") for name in ("source_text", "target_text")
    ]
    lines = pairs.select(pl.format("{}\t{}\t{}", pl.col("margin").round(6), *texts)).to_series()
    with FileSystems.create(
        path, "text/tab-separated-values", compression_type="uncompressed"
    ) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())


def compare(pairs: pl.DataFrame, gold: pl.DataFrame) -> dict[str, float]:
    right = len(pairs.cast(dict.fromkeys(PAIR, pl.String)).join(gold, on=PAIR, how="semi"))
    precision, recall = right / max(1, len(pairs)), right / max(1, len(gold))
    f1 = 2 * right / max(1, len(pairs) + len(gold))
    return {"precision": round(precision, 4), "recall": round(recall, 4), "f1": round(f1, 4)}


def missed_of(
    output: str, pairs: pl.DataFrame, gold: pl.DataFrame | None, summary: dict[str, Any]
) -> list[MissedPair] | None:
    if gold is None:
        return None
    return missed_pairs(gold, pairs, take_sample(gold_file(output)), summary)


def print_pairs(summary: dict[str, Any], pairs: pl.DataFrame) -> None:
    print(
        f"{summary['source_rows']:,} source and {summary['target_rows']:,} target sentences: "
        f"{len(pairs):,} pairs at a margin of {summary['threshold_used']:.4g}, "
        f"{summary['dropped_by_length']:,} dropped by length"
    )
    for warning in summary["warnings"]:
        print(f"warning: {warning}")
    for row in pairs.head(3).iter_rows(named=True):
        print(f"  {row['margin']:.3f}  {row['source_text']!r}\n         {row['target_text']!r}")


def run(options: argparse.Namespace, flags: list[str]) -> None:
    beam_options, watch = PipelineOptions(flags), Stopwatch()
    sides = [*options.source, *options.target]
    local = local_options(beam_options, sides)
    transform_of(options)
    bitext = f"{options.output.rstrip('/')}/bitext"
    with no_new_folders(options.dry_run, bitext, options.report):
        gold = check(options)
    if options.dry_run:
        dry_run(job_of(options, flags, local))
        return
    with shown_progress(local, PROGRAM.name, sides) as runner:
        pipeline = beam.Pipeline(runner=runner, options=beam_options)
        build(pipeline, options, gold)
        result = run_pipeline(pipeline, local, options.output)
    seconds = watch.seconds()
    output = options.output.rstrip("/")
    with FileSystems.open(f"{output}/summary.json") as file:
        summary = json.load(file)
    pairs = read_pairs(output)
    if options.tsv:
        write_tsv(pairs, f"{output}/bitext.tsv")
    print_pairs(summary, pairs)
    if gold is not None:
        scores = compare(pairs, gold)
        summary |= scores
        write_json(f"{output}/summary.json", summary)
        print(
            f"against {options.gold}: precision {scores['precision']:.1%}, "
            f"recall {scores['recall']:.1%}, F1 {scores['f1']:.1%}"
        )
    print(f"{seconds:.0f} s; all figures in {output}/summary.json")
    if options.report is not None:
        about = run_of(PROGRAM.name, options, flags, result, seconds)
        sample = take_sample(sample_file(output))
        missed = missed_of(output, pairs, gold, summary)
        vectors, config = options.embedding_column, in_files(config_of(options))
        page = bitext_page(about, summary, pairs, sample, vectors, missed, config)
        write_page(options.report, page)
        print(f"report in {options.report}")


PROGRAM = Program("mine", __doc__, add_options, run)
