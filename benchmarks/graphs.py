"""Count the steps and shuffles of pipelines; nothing runs, no model is loaded.

    python benchmarks/graphs.py [--json]
    python benchmarks/graphs.py --parts NAME [--depth 2] [--diagnosis default|same|all]

A step is a node of the applied pipeline without parts, whatever its kind: a `ParDo`, a `Flatten`,
an `Impulse`, a `GroupByKey`, the `ParDo` of a combine. A step with several outputs counts once.
`steps` is the number of all of them; `own` is that without sources: without each `Impulse` and what
is in a `Create` or a `Read`, be it of the input (a `Create` of three steps for each collection) or
inside a transform. What a runner makes of a step, such as the two stages of a shuffle, is not
counted.

Inputs are blocks with vectors. Each pipeline is counted with the diagnosis `default`; `same`, which
writes out that of the defaults of version 0.1.0, so that versions compare; and `all`: whatever a
transform can report, and `with_exception_handling()`.

`--parts NAME` prints the same figures by label, below the transforms that a user applies.
"""

import argparse
import itertools
import json
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import apache_beam as beam
import pyarrow as pa
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor

from beam_gpte import (
    Block,
    ClusterVectors,
    Decontaminate,
    Deduplicate,
    DeduplicateExact,
    DeduplicateLexical,
    DeduplicateSemantic,
    EmbedText,
    MineBitext,
    MineHardNegatives,
    NearestNeighbors,
    ReadCorpus,
    SemanticOptions,
    Thresholding,
    WriteVectorsToParquet,
)

Diagnosis = Literal["default", "same", "all"]
Labels = tuple[str, ...]

REPORTS = {
    "default": SemanticOptions(),
    "same": SemanticOptions(report_thresholds=(0.925, 0.95, 0.975)),
    "all": SemanticOptions(report_thresholds=(0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98)),
}


class Size(NamedTuple):
    """Count the steps of a pipeline, or of a part of one.

    Attributes:
      steps: all of them.
      group_by_keys: those that are a `GroupByKey`.
      own: those that are neither a source nor in one.
    """

    steps: int = 0
    group_by_keys: int = 0
    own: int = 0

    def plus(self, other: "Size") -> "Size":
        """Add the figures of another part."""
        return Size(*(a + b for a, b in zip(self, other, strict=True)))


class _Steps(PipelineVisitor):
    def __init__(self) -> None:
        self.found: list[AppliedPTransform] = []

    def visit_transform(self, transform_node: AppliedPTransform) -> None:
        self.found.append(transform_node)


def parts(pipeline: beam.Pipeline, depth: int) -> dict[Labels, Size]:
    """Count the steps of an applied pipeline by label.

    Args:
      pipeline: applied.
      depth: how many labels a part has at most.

    Returns:
      Each part's size, before those of its own parts; the pipeline is the part without labels.
    """
    steps = _Steps()
    pipeline.visit(steps)
    sizes: dict[Labels, Size] = {}
    for step in steps.found:
        lineage = _lineage(step)
        labels, size = _labels(lineage), _size(lineage)
        for end in range(min(depth, len(labels)) + 1):
            sizes[labels[:end]] = sizes.get(labels[:end], Size()).plus(size)
    return sizes


def count(pipeline: beam.Pipeline) -> Size:
    """Count the steps of an applied pipeline."""
    return parts(pipeline, 0)[()]


def _lineage(step: AppliedPTransform) -> list[AppliedPTransform]:
    """List the nodes that hold a step, from the pipeline's own, and the step."""
    lineage = [step]
    while lineage[0].parent is not None:
        lineage.insert(0, lineage[0].parent)
    return lineage


def _labels(lineage: list[AppliedPTransform]) -> Labels:
    # a label may have slashes itself
    names = [node.full_label for node in lineage]
    return tuple(name.removeprefix(f"{outer}/") for outer, name in itertools.pairwise(names))


def _size(lineage: list[AppliedPTransform]) -> Size:
    sources = (beam.Impulse, beam.Create, beam.io.Read)
    is_source = any(isinstance(node.transform, sources) for node in lineage)
    is_shuffle = isinstance(lineage[-1].transform, beam.GroupByKey)
    return Size(1, int(is_shuffle), int(not is_source))


def embed_to_parquet(pipeline: beam.Pipeline, diagnosis: Diagnosis) -> None:
    read = ReadCorpus("corpus/*.parquet", id_column="id")
    embed = EmbedText("a/model", token_columns=diagnosis == "all")
    if diagnosis == "all":
        rows, _ = pipeline | read.with_exception_handling()
        rows, _ = rows | embed.with_exception_handling()
    else:
        rows = pipeline | read | embed
    rows | WriteVectorsToParquet("vectors")


def deduplicate_semantic(pipeline: beam.Pipeline, diagnosis: Diagnosis) -> None:
    deduplicate = DeduplicateSemantic(options=REPORTS[diagnosis])
    if diagnosis == "all":
        deduplicate = deduplicate.with_exception_handling()
    _rows(pipeline, "rows") | deduplicate


def deduplicate_three_steps(pipeline: beam.Pipeline, diagnosis: Diagnosis) -> None:
    semantic = DeduplicateSemantic(options=REPORTS[diagnosis])
    deduplicate = Deduplicate((DeduplicateExact(), DeduplicateLexical(), semantic))
    if diagnosis == "all":
        deduplicate = deduplicate.with_exception_handling()
    _rows(pipeline, "rows") | deduplicate


def mine_bitext(pipeline: beam.Pipeline, diagnosis: Diagnosis) -> None:
    _mine(pipeline, diagnosis)


def mine_unmatched(pipeline: beam.Pipeline, diagnosis: Diagnosis) -> None:
    _mine(pipeline, diagnosis, scope="document", mine_unmatched=True)


def _mine(pipeline: beam.Pipeline, diagnosis: Diagnosis, **settings: str | bool) -> None:
    sides = {name: _rows(pipeline, name) for name in ("source", "target")}
    if diagnosis == "all":
        sides["decoys"] = _rows(pipeline, "decoys")
        thresholding = Thresholding(target_precision=0.95)
        sides | MineBitext(thresholding=thresholding, **settings).with_exception_handling()
    else:
        sides | MineBitext(**settings)


def mine_hard_negatives(pipeline: beam.Pipeline, diagnosis: Diagnosis) -> None:
    inputs = {name: _rows(pipeline, name) for name in ("queries", "documents")}
    pairs = Block.from_pydict({"query_id": ["1"], "document_id": ["1"]})
    inputs["positives"] = pipeline | "positives" >> beam.Create([pairs])
    mine = MineHardNegatives()
    inputs | (mine.with_exception_handling() if diagnosis == "all" else mine)


def nearest_neighbors(pipeline: beam.Pipeline, diagnosis: Diagnosis) -> None:
    inputs = {name: _rows(pipeline, name) for name in ("queries", "documents")}
    find = NearestNeighbors(mutual=diagnosis == "all")
    inputs | (find.with_exception_handling() if diagnosis == "all" else find)


def cluster_vectors(pipeline: beam.Pipeline, diagnosis: Diagnosis) -> None:
    if diagnosis == "all":
        cluster = ClusterVectors(3, sample=2).with_exception_handling()
    else:
        cluster = ClusterVectors(3)
    _rows(pipeline, "rows") | cluster


def decontaminate(pipeline: beam.Pipeline, diagnosis: Diagnosis) -> None:
    inputs = {name: _rows(pipeline, name) for name in ("corpus", "benchmarks")}
    remove = Decontaminate("a/model", benchmark_column="document")
    if diagnosis == "all":
        inputs |= {"clean": _rows(pipeline, "clean")}
    inputs | (remove.with_exception_handling() if diagnosis == "all" else remove)


def _rows(pipeline: beam.Pipeline, label: str) -> beam.PCollection[Block]:
    vectors = pa.array([[1.0, 0.0]], pa.list_(pa.float32(), 2))
    columns = {"id": ["1"], "text": ["a text"], "document": ["d"], "embedding": vectors}
    return pipeline | label >> beam.Create([Block.from_pydict(columns)])


PIPELINES: dict[str, Callable[[beam.Pipeline, Diagnosis], None]] = {
    function.__name__: function
    for function in (
        embed_to_parquet,
        deduplicate_semantic,
        deduplicate_three_steps,
        mine_bitext,
        mine_unmatched,
        mine_hard_negatives,
        nearest_neighbors,
        cluster_vectors,
        decontaminate,
    )
}


def applied(name: str, diagnosis: Diagnosis = "default") -> beam.Pipeline:
    """Apply one of `PIPELINES`."""
    pipeline = beam.Pipeline(runner="FnApiRunner")
    PIPELINES[name](pipeline, diagnosis)
    return pipeline


def print_table(sizes: dict[str, dict[str, Size]]) -> None:
    """Print a line per pipeline, with the figures of each diagnosis."""
    print(f"{'diagnosis':24}" + "".join(f"{name:>30}" for name in get_args(Diagnosis)))
    print(f"{'':24}" + f"{'steps / GroupByKeys':>24}{'own':>6}" * len(get_args(Diagnosis)))
    for name, by_diagnosis in sizes.items():
        cells = [f"{s.steps:>11} / {s.group_by_keys:<10}{s.own:>6}" for s in by_diagnosis.values()]
        print(f"{name:24}" + "".join(cells))


def print_parts(sizes: dict[Labels, Size]) -> None:
    """Print a line per part, below the part that holds it."""
    print(f"{'steps':>5} {'GroupByKeys':>11} {'own':>5}  part")
    for labels, size in sizes.items():
        name = "  " * len(labels) + labels[-1] if labels else "all"
        print(f"{size.steps:5} {size.group_by_keys:11} {size.own:5}  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--parts", choices=PIPELINES, help="print the parts of this pipeline")
    parser.add_argument("--depth", type=int, default=2, help="levels below the user's transform")
    parser.add_argument("--diagnosis", choices=get_args(Diagnosis), default="default")
    options = parser.parse_args()
    if options.parts:
        print_parts(parts(applied(options.parts, options.diagnosis), options.depth + 1))
        return
    sizes = {
        name: {diagnosis: count(applied(name, diagnosis)) for diagnosis in get_args(Diagnosis)}
        for name in PIPELINES
    }
    if options.json:
        figures = {name: {d: s._asdict() for d, s in by.items()} for name, by in sizes.items()}
        print(json.dumps(figures, indent=2))
    else:
        print_table(sizes)


if __name__ == "__main__":
    main()
