"""Count what passes each GroupByKey of a pipeline on real data: keys, elements, bytes.

    python benchmarks/shuffled_bytes.py --texts FILE.parquet --cache FOLDER --bitext FILE.parquet
        [--rows 4000] [--pipelines NAME ...] [--json]

The pipelines run on Beam's in-process runner, whose buffers of grouped elements are read: no step
is added, nothing of the library is replaced, so that older commits can be measured with
PYTHONPATH. Bytes are those of the encoded keys, values and windows as the workers send them,
after a combine has been lifted. Side inputs are not counted: they pass no GroupByKey.

`embed` has `ReadCorpus`, `EmbedText` with an encoder that costs nothing (all vectors equal, 384
dimensions) and `WriteVectorsToParquet`. `deduplicate` and `chain` (exact, lexical, semantic) read
the first rows of `--texts`, with the vectors that `deduplication.py` keeps in `--cache`. `mine` and
`negatives` read the first rows of each side of `--bitext`, which `bitext.py` has embedded
(FILE.vectors.parquet); positives are the pairs of equal `gold`.
"""

import argparse
import json
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.runners.portability.fn_api_runner import execution
from bitext import blocks, side
from deduplication_methods import load, read_texts, vectors_file
from given_blocks import FreeEncoder

from beam_gpte import (
    Block,
    Deduplicate,
    DeduplicateExact,
    DeduplicateLexical,
    DeduplicateSemantic,
    EmbedText,
    MineBitext,
    MineHardNegatives,
    ReadCorpus,
    WriteVectorsToParquet,
)

ROWS_PER_BLOCK = 256
DIMS = 384
FILES = 4


class Shuffled(NamedTuple):
    """Count what passed a GroupByKey."""

    keys: int = 0
    elements: int = 0
    size: int = 0


class CountedGroups:
    """Count what the in-process runner groups while a `with` block runs, by label."""

    def __init__(self) -> None:
        self._bytes: dict[str, int] = {}
        self._groups: dict[str, dict[bytes, int]] = {}

    def __enter__(self) -> "CountedGroups":
        self._get_buffer = execution.BundleContextManager.get_buffer
        counted = self

        def get_buffer(manager: Any, buffer_id: bytes, transform_id: str) -> Any:
            buffer = counted._get_buffer(manager, buffer_id, transform_id)
            kind, name = execution.split_buffer_id(buffer_id)
            if kind == "group" and not hasattr(buffer, "counted"):
                transforms = manager.execution_context.pipeline_components.transforms
                counted._count(buffer, transforms[name].unique_name)
            return buffer

        execution.BundleContextManager.get_buffer = get_buffer
        return self

    def __exit__(self, *_: object) -> None:
        execution.BundleContextManager.get_buffer = self._get_buffer

    def _count(self, buffer: Any, label: str) -> None:
        append, groups = buffer.append, self._groups.setdefault(label, {})

        def counted_append(data: bytes) -> None:
            self._bytes[label] = self._bytes.get(label, 0) + len(data)
            append(data)
            groups.update((key, len(values)) for key, values in buffer._table.items())

        buffer.append, buffer.counted = counted_append, True

    def shuffled(self) -> dict[str, Shuffled]:
        """Give the counts by label, in the order in which the groups began."""
        return {
            label: Shuffled(len(groups), sum(groups.values()), self._bytes.get(label, 0))
            for label, groups in self._groups.items()
        }


def create(pipeline: beam.Pipeline, label: str, made: list[Any]) -> beam.PCollection:
    one = pipeline | f"{label}: once" >> beam.Create([None])
    return one | label >> beam.FlatMap(lambda _: made).with_output_types(Block)


def embed(pipeline: beam.Pipeline, options: argparse.Namespace, folder: str) -> None:
    texts = [" ".join(text.split()) for text in read_texts(options.texts, options.column, "first")]
    for number in range(FILES):
        part = "\n".join(texts[: options.rows][number::FILES])
        Path(folder, f"{number}.txt").write_text(part, encoding="utf-8")
    rows = pipeline | ReadCorpus(f"{folder}/*.txt") | EmbedText(FreeEncoder())
    rows | WriteVectorsToParquet(f"{folder}/vectors")


def corpus(pipeline: beam.Pipeline, options: argparse.Namespace) -> beam.PCollection:
    texts = read_texts(options.texts, options.column, "first")[: options.rows]
    vectors = load(vectors_file(options, "first", len(texts)), 0, len(texts))
    made = []
    for start in range(0, len(texts), ROWS_PER_BLOCK):
        part = vectors[start : start + ROWS_PER_BLOCK]
        columns = {
            "id": [str(start + i) for i in range(len(part))],
            "text": texts[start : start + len(part)],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), DIMS),
        }
        made.append(Block.from_pydict(columns))
    return create(pipeline, "rows", made)


def deduplicate(pipeline: beam.Pipeline, options: argparse.Namespace, _: str) -> None:
    corpus(pipeline, options) | DeduplicateSemantic()


def chain(pipeline: beam.Pipeline, options: argparse.Namespace, _: str) -> None:
    steps = DeduplicateExact(), DeduplicateLexical(), DeduplicateSemantic()
    corpus(pipeline, options) | Deduplicate(steps)


def mine(pipeline: beam.Pipeline, options: argparse.Namespace, _: str) -> None:
    both = {
        name: create(pipeline, name, list(blocks(options.bitext, name, options.rows)))
        for name in ("source", "target")
    }
    both | MineBitext()


def negatives(pipeline: beam.Pipeline, options: argparse.Namespace, _: str) -> None:
    path, rows = options.bitext, options.rows
    tables = [side(path, name, rows).select(["id", "gold"]) for name in ("source", "target")]
    pairs = tables[0].join(tables[1], "gold", right_suffix="_target", join_type="inner")
    named = pairs.select(["id", "id_target"]).rename_columns(["query_id", "document_id"])
    inputs = {
        "queries": create(pipeline, "queries", list(blocks(path, "source", rows))),
        "documents": create(pipeline, "documents", list(blocks(path, "target", rows))),
        "positives": create(pipeline, "positives", [Block.from_table(named)]),
    }
    inputs | MineHardNegatives()


PIPELINES: dict[str, Callable[[beam.Pipeline, argparse.Namespace, str], None]] = {
    function.__name__: function for function in (embed, deduplicate, chain, mine, negatives)
}


def measure(name: str, options: argparse.Namespace) -> dict[str, Shuffled]:
    """Run one of `PIPELINES`, and count what passed each GroupByKey."""
    with tempfile.TemporaryDirectory() as folder, CountedGroups() as counted:
        with beam.Pipeline("FnApiRunner") as pipeline:
            PIPELINES[name](pipeline, options, folder)
    return counted.shuffled()


def print_table(name: str, rows: int, shuffled: dict[str, Shuffled]) -> None:
    """Print a line per GroupByKey, the largest first, and their sum."""
    print(f"\n{name}, {rows} rows\n{'keys':>7}{'elements':>10}{'bytes':>13}  GroupByKey")
    for label, one in sorted(shuffled.items(), key=lambda item: -item[1].size):
        print(f"{one.keys:7}{one.elements:10}{one.size:13,}  {label}")
    total = [sum(counts) for counts in zip(*shuffled.values(), strict=True)] or [0, 0, 0]
    print(f"{total[0]:7}{total[1]:10}{total[2]:13,}  all {len(shuffled)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--texts", type=Path, help="Parquet, for embed, deduplicate and chain")
    add("--column", default="text")
    add("--cache", type=Path, help="folder of vectors, see deduplication.py")
    add("--bitext", type=Path, help="FILE.vectors.parquet of bitext.py, for mine and negatives")
    add("--rows", type=int, default=4000)
    add("--pipelines", nargs="+", choices=PIPELINES, default=list(PIPELINES))
    add("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    found = {name: measure(name, options) for name in options.pipelines}
    if options.json:
        print(
            json.dumps(
                {name: {k: s._asdict() for k, s in one.items()} for name, one in found.items()}
            )
        )
        return
    for name, shuffled in found.items():
        print_table(name, options.rows, shuffled)


if __name__ == "__main__":
    main()
