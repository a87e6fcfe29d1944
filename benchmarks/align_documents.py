"""Compare n:m alignments with those that were made on purpose, and run the aligner at length.

    python benchmarks/align_documents.py FILE.parquet --model MODEL --prompt_name query
    python benchmarks/align_documents.py --growth

The first makes documents by `documents_n_to_m.py`, for each of several seeds, and prints precision,
recall and F1 of the beads: strict, where a bead counts if it is exactly one of the right ones, and
lax, where it counts if it has sentences of both sides in common with one. Beads of one side alone
are in neither, as in the figures of Vecalign. Compared are 0.1.0 (`align_reference.py`), averages
and concatenations. The second aligns 5,000, 10,000 and 20,000 sentences a side, each in a process
of its own, and prints seconds and the peak of its memory.
"""

import argparse
import functools
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import align_reference
from benchmarks.documents_n_to_m import Document, Range, make_documents

DIM = 384
GROWTH = (5_000, 10_000, 20_000)


KNOWN: dict[str, np.ndarray] = {}  # vectors, of this process


@functools.cache
def _load(model: str, prompt_name: str | None) -> Any:
    from beam_gpte import EncoderConfig, TextEncoder

    return TextEncoder.load(EncoderConfig(model, prompt_name=prompt_name))


class CachedEncoder:
    """Embed each text once, also in several pipelines, which copy the encoder."""

    def __init__(self, model: str, prompt_name: str | None) -> None:
        self._model = model, prompt_name
        self.fingerprint = _load(*self._model).fingerprint

    def encode(self, texts: list[str]) -> np.ndarray:
        """Return the vectors of the texts."""
        new = [text for text in dict.fromkeys(texts) if text not in KNOWN]
        if new:
            KNOWN.update(zip(new, _load(*self._model).encode(new), strict=True))
        return np.stack([KNOWN[text] for text in texts])


def found_by_reference(documents: list[Document], encoder: CachedEncoder, span: int) -> list[Any]:
    """Align as 0.1.0 did, the means and samples taken of all documents."""
    from beam_gpte.core.mining.bead_costs import span_vectors

    sides = [[document[side] for document in documents] for side in (0, 1)]
    vectors = [[_unit(encoder.encode(texts)) for texts in side] for side in sides]
    together = [np.concatenate(side) for side in vectors]
    means = [side.mean(axis=0) for side in together]
    samples = [np.random.default_rng(0).permutation(side)[:100] for side in together]
    skip = align_reference.skip_cost(*samples, *means)
    found = []
    for i in range(len(documents)):
        lengths = [np.array([len(text) for text in side[i]]) for side in sides]
        spans = [span_vectors(vectors[side][i], lengths[side], span) for side in (0, 1)]
        found.append([bead[:4] for bead in align_reference.align(*spans, *means, skip)])
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def found_by_transform(documents: list[Document], **settings: Any) -> list[Any]:
    """Align by `AlignDocuments`."""
    import apache_beam as beam

    from beam_gpte import AlignDocuments, WriteVectorsToParquet

    rows: dict[str, list[dict]] = {"source": [], "target": []}
    for number, document in enumerate(documents):
        for name, texts in zip(rows, document, strict=False):
            rows[name] += [
                {"id": f"{number}-{i}", "doc": number, "n": i, "text": text}
                for i, text in enumerate(texts)
            ]
    places = ("source_start", "source_stop", "target_start", "target_stop")
    with tempfile.TemporaryDirectory() as folder:
        with beam.Pipeline("FnApiRunner") as p:
            sides = {name: p | name >> beam.Create(some) for name, some in rows.items()}
            beads = sides | AlignDocuments("doc", ("n",), **settings)
            beads | WriteVectorsToParquet(folder)
        table = pl.read_parquet(f"{folder}/*.parquet", columns=["doc", *places])
    found: list[Any] = [[] for _ in documents]
    for number, *bead in table.rows():
        found[number].append(tuple(bead))
    return found


def strict(found: Iterable[Range], gold: Iterable[Range]) -> tuple[int, int, int, int]:
    """Count beads that are right, beads, right beads that were found, right beads."""
    ours, right = set(_of_both(found)), set(_of_both(gold))
    return len(ours & right), len(ours), len(ours & right), len(right)


def lax(found: Iterable[Range], gold: Iterable[Range]) -> tuple[int, int, int, int]:
    """Count as `strict` does, beads that have something of both sides in common with one."""
    ours, right = list(_of_both(found)), list(_of_both(gold))
    hits = sum(any(_overlap(bead, other) for other in right) for bead in ours)
    return hits, len(ours), sum(any(_overlap(b, o) for o in ours) for b in right), len(right)


def _of_both(beads: Iterable[Range]) -> list[Range]:
    return [bead for bead in beads if bead[0] < bead[1] and bead[2] < bead[3]]


def _overlap(a: Range, b: Range) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def figures(
    documents: Sequence[Document], found: Sequence[Any], count: Callable[..., tuple]
) -> tuple[float, float, float]:
    """Compute precision, recall and F1, in percent, of all documents together."""
    counts = [count(beads, document.gold) for beads, document in zip(found, documents, strict=True)]
    right, ours, hit, gold = np.sum(counts, axis=0)
    precision, recall = 100 * right / ours, 100 * hit / gold
    return precision, recall, 2 * precision * recall / (precision + recall)


def compare(options: argparse.Namespace) -> None:
    """Print the figures of each seed, and the means."""
    encoder = CachedEncoder(options.model, options.prompt_name)
    span = options.max_span
    ways: dict[str, Callable[[list[Document]], list[Any]]] = {
        "0.1.0": lambda documents: found_by_reference(documents, encoder, span),
        "averages": lambda documents: found_by_transform(
            documents, max_span=span, spans="average", model=encoder
        ),
        "concatenations": lambda documents: found_by_transform(
            documents, max_span=span, model=encoder
        ),
    }
    totals: dict[str, list[tuple]] = {name: [] for name in ways}
    for seed in range(options.seeds):
        documents = make_documents(options.file, seed, options.documents, options.parts)
        sizes = (sum(len(document[side]) for document in documents) for side in (0, 1))
        print("seed {}: {} and {} sentences".format(seed, *sizes), flush=True)
        for name, way in ways.items():
            found = way(documents)
            both = [figures(documents, found, count) for count in (strict, lax)]
            totals[name].append(both)
            print(f"  {name:15} {_shown(both)}", flush=True)
    print("mean")
    for name, both in totals.items():
        print(f"  {name:15} {_shown(np.mean(both, axis=0))}")


def _shown(both: Any) -> str:
    return "; ".join(
        "{} P {:.1f} R {:.1f} F1 {:.1f}".format(name, *values)
        for name, values in zip(("strict", "lax"), both, strict=True)
    )


def growth() -> None:
    """Print time and memory of long documents."""
    context = multiprocessing.get_context("spawn")
    for rows in GROWTH:
        with context.Pool(1) as pool:
            seconds, before, peak, right = pool.apply(long_documents, (rows,))
        print(
            f"{rows:,} sentences a side, {DIM} dimensions: {seconds:.1f} s, peak {peak:.0f} MB, "
            f"{before:.0f} MB of it vectors and libraries; {right:.2%} of the beads right",
            flush=True,
        )


def long_documents(rows: int) -> tuple[float, float, float, float]:
    """Align a document with a noisy translation of which a tenth is missing; one pair per bead."""
    from beam_gpte.core.mining.align import align
    from beam_gpte.core.mining.bead_costs import Sentences, skip_cost, span_vectors

    random = np.random.default_rng(0)
    meanings = random.normal(size=(rows + rows // 9, DIM)).astype(np.float32)
    sides, lengths = [], np.full(rows, 80.0)
    kept = [np.sort(random.permutation(len(meanings))[:rows]) for _ in range(2)]
    for places in kept:
        noise = random.normal(size=(rows, DIM)).astype(np.float32)
        sides.append(_unit(meanings[places] + noise))
    del meanings, noise
    skip = skip_cost(*(side[:100] for side in sides))
    before = _peak()
    began = time.perf_counter()
    beads = align(*(Sentences(span_vectors(side, lengths, 4), lengths) for side in sides), skip)
    seconds = time.perf_counter() - began
    ones = [
        b for b in beads if b.source_stop - b.source_start == b.target_stop - b.target_start == 1
    ]
    right = sum(kept[0][bead.source_start] == kept[1][bead.target_start] for bead in ones)
    return seconds, before, _peak(), right / len(np.intersect1d(*kept))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", help="Parquet: lang, doc, par, sent, text")
    parser.add_argument("--model", help="a hub name or folder")
    parser.add_argument("--prompt_name")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--documents", type=int, default=8, help="of each seed")
    parser.add_argument("--parts", type=int, default=25, help="short documents in each")
    parser.add_argument("--max_span", type=int, default=4)
    parser.add_argument("--growth", action="store_true")
    options = parser.parse_args()
    if options.growth:
        growth()
    else:
        compare(options)


if __name__ == "__main__":
    main()
