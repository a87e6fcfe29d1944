"""Compare mining within documents with mining among all, and run the aligner; see `bitext.py`.

    python benchmarks/bitext.py DOCUMENTS.parquet --model MODEL --documents

The file has columns `lang` (de, en), `doc`, `par` and `sent`: sentence `sent` of paragraph `par` on
one side translates that of the same numbers on the other, if the paragraph has equally many
sentences on both. Mining within documents is compared with mining among all, on these sentences;
and the n:m aligner is run on whole documents. Of its beads that have a sentence of a paragraph with
unequal numbers, those that stay within one paragraph are counted, and how many sentences of these
paragraphs they leave out.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq


def documents(path: Path) -> None:
    """Print the figures of all methods."""
    from beam_gpte import AlignDocuments, BitextOutput, Comparison, MineBitext

    table = pl.from_arrow(pq.read_table(path, columns=["lang", "doc", "par", "sent"]))
    assert isinstance(table, pl.DataFrame)
    table = table.with_row_index("id").with_columns(pl.col("lang", "doc", "id").cast(pl.String))
    german, english = (table.filter(pl.col("lang") == lang) for lang in ("de", "en"))
    right = known_pairs(german, english)
    known = {id_ for pair in right for id_ in pair}
    sides = {"source": german["id"].to_list(), "target": english["id"].to_list()}
    print(
        f"{len(german)} and {len(english)} sentences in {table['doc'].n_unique()} documents, "
        f"{len(right)} pairs known"
    )
    for name, scope in (("among all", None), ("within documents", "doc")):
        transform = MineBitext(
            threshold=-1e9,
            scope=scope,
            comparison=Comparison(deduplicate=False),
            output=BitextOutput(max_length_ratio=None),
        )
        found = run_on(path, sides, lambda both, transform=transform: (both | transform).pairs)
        pairs = sorted(
            ((row["margin"], row["source_id"], row["target_id"]) for row in found), reverse=True
        )
        hits = np.cumsum(_hits(pairs, right, known))
        f1 = 200 * hits / (np.arange(1, len(hits) + 1) + len(right))
        print(f"{name:18} best F1 {f1.max():.2f}, at {int(f1.argmax()) + 1} pairs")
    beads = run_on(path, sides, lambda both: both | AlignDocuments("doc", ("par", "sent")))
    print_beads(beads, table, right, known)


def known_pairs(german: pl.DataFrame, english: pl.DataFrame) -> set[tuple[str, str]]:
    """List the pairs of sentences in paragraphs that have equally many on both sides."""
    counts = [side.group_by("doc", "par").len() for side in (german, english)]
    equal = counts[0].join(counts[1], on=["doc", "par", "len"])
    pairs = german.join(equal, on=["doc", "par"]).join(english, on=["doc", "par", "sent"])
    return set(pairs.select("id", "id_right").rows())


def print_beads(
    beads: list[dict], table: pl.DataFrame, right: set[tuple[str, str]], known: set[str]
) -> None:
    """Print the figures of the aligner."""
    paragraph = {row[0]: row[1:] for row in table.select("id", "doc", "par").rows()}
    ids = [(tuple(bead["source_ids"]), tuple(bead["target_ids"])) for bead in beads]
    single = {(a[0], b[0]) for a, b in ids if len(a) == len(b) == 1 and known & {*a, *b}}
    hit = len(single & right)
    f1, precision = 200 * hit / (len(single) + len(right)), 100 * hit / len(single)
    print(f"aligned, 1:1       F1 {f1:.2f}, precision {precision:.2f}")
    unequal = [a + b for a, b in ids if a and b and not known & {*a, *b}]
    within = sum(len({paragraph[id_] for id_ in bead}) == 1 for bead in unequal)
    several, others = sum(len(bead) > 2 for bead in unequal), len(table) - len(known)
    print(
        f"paragraphs with unequal numbers of sentences: {len(unequal)} beads, {several} of several "
        f"sentences, {100 * within / len(unequal):.1f} % within one paragraph; "
        f"{others - sum(map(len, unequal))} of {others} sentences in none of these"
    )


def _hits(pairs: list[tuple], right: set, known: set) -> np.ndarray:
    """Check each pair that has a sentence of a known pair."""
    return np.array(
        [(source, target) in right for _, source, target in pairs if known & {source, target}]
    )


def run_on(path: Path, sides: dict[str, list[str]], result: Callable[[dict], Any]) -> list[dict]:
    """Apply `result` to the sides, given by the numbers of their rows in the file."""
    import apache_beam as beam

    from beam_gpte import Block, WriteVectorsToParquet

    def read(name: str) -> Iterator[Any]:
        whole = pq.read_table(path, columns=["doc", "par", "sent", "text", "embedding"])
        chosen = whole.take(pa.array([int(id_) for id_ in sides[name]])).append_column(
            "id", pa.array(sides[name])
        )
        chosen = chosen.set_column(0, "doc", chosen["doc"].cast(pa.string()))
        for start in range(0, len(chosen), 256):
            yield Block.from_table(chosen.slice(start, 256))

    with tempfile.TemporaryDirectory() as folder:
        with beam.Pipeline("FnApiRunner") as p:
            reading = {name: p | name >> beam.Create([name]) for name in sides}
            both = {
                name: p_ | f"read {name}" >> beam.FlatMap(read).with_output_types(Block)
                for name, p_ in reading.items()
            }
            result(both) | WriteVectorsToParquet(folder)
        return pq.read_table(sorted(Path(folder).glob("*.parquet"))).to_pylist()
