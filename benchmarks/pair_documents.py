"""Pair documents with their translations under other names, and compare with their mean vectors.

    python -m benchmarks.pair_documents FILE.parquet --model MODEL [--prompt_name query]
        [--documents 500 2000] [--missing 0 0.25] [--k 8] [--text] [--all]

The file has columns `lang` (de, en), `doc` and `text`, one row per sentence, in order. Documents
get other names on both sides, drawn at random, so that nothing but their sentences says which
translates which. With `--missing` so many of the documents of each side lack a translation.

Compared are the mutual best documents

    mean           by the cosine of the means of unit vectors
    mean, centered by that of vectors around the mean of their side
    text           by that of the vectors of whole documents, each embedded as one text (--text)
    PairDocuments  the transform, from rows with vectors to pairs
    all            by BiMax of all pairs of documents, no candidates chosen: what k may cost (--all)

Precision is the share of pairs that are right, recall that of the translations found; F1 is of all
pairs, and of those above the best minimum of the score. Seconds are CPU seconds of this process,
without embedding, which is printed first.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from beam_gpte.core.mining.bimax import bimax
from beam_gpte.core.process import claim_process

LANGUAGES = ("de", "en")
SEED = 0
Pairs = list[tuple[str, str, float]]  # names of a source and a target, score


class Side(NamedTuple):
    """Hold the documents of a side: their names, and the texts and vectors of their sentences."""

    names: list[str]
    texts: list[list[str]]
    vectors: list[np.ndarray]


def read_documents(path: Path) -> dict[str, dict[str, list[str]]]:
    """Read the sentences of the documents of each language."""
    table = pl.read_parquet(path, columns=["lang", "doc", "text"])
    table = table.with_columns(pl.col("lang", "doc").cast(pl.String))
    sides: dict[str, dict[str, list[str]]] = {lang: {} for lang in LANGUAGES}
    for lang, doc, text in table.rows():
        sides[lang].setdefault(doc, []).append(text)
    return sides


def choose(names: list[str], count: int, missing: float) -> list[list[str]]:
    """Choose documents of each side: first those with a translation, then those that lack one."""
    chosen = [names[i] for i in np.random.default_rng(SEED).permutation(len(names))]
    paired = chosen[: round(count * (1 - missing))]
    alone, lone = chosen[len(paired) :], count - len(paired)
    if len(alone) < 2 * lone:
        raise SystemExit(f"{len(names)} documents; ask for fewer, or for fewer that are missing")
    return [paired + alone[:lone], paired + alone[lone : 2 * lone]]


def make_sides(
    documents: dict[str, dict[str, list[str]]],
    encoded: dict[str, np.ndarray],
    of_sides: list[list[str]],
) -> tuple[tuple[Side, Side], set[tuple[str, str]]]:
    """Name the documents of each side anew, and say which pairs are right."""
    random = np.random.default_rng(SEED)
    sides, named = [], []
    for lang, docs in zip(LANGUAGES, of_sides, strict=True):
        numbers = random.permutation(len(docs))
        names = [f"{lang}-{number:05}" for number in numbers]
        named.append(dict(zip(docs, names, strict=True)))
        order = np.argsort(numbers)
        texts = [documents[lang][docs[i]] for i in order]
        vectors = [np.stack([encoded[text] for text in some]) for some in texts]
        sides.append(Side([names[i] for i in order], texts, vectors))
    paired = named[0].keys() & named[1].keys()
    right = {(named[0][doc], named[1][doc]) for doc in paired}
    return (sides[0], sides[1]), right


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def centered(side: Side) -> list[np.ndarray]:
    """Center the sentences by the mean of their side, and give them length 1 again."""
    mean = np.concatenate(side.vectors).mean(axis=0)
    return [unit(vectors - mean).astype(np.float32) for vectors in side.vectors]


def mutual_best(scores: np.ndarray, sides: tuple[Side, Side]) -> Pairs:
    """Pair the documents that are each other's best."""
    forward, backward = scores.argmax(axis=1), scores.argmax(axis=0)
    both = np.flatnonzero(backward[forward] == np.arange(len(scores)))
    found = zip(both.tolist(), forward[both].tolist(), strict=True)
    return [(sides[0].names[i], sides[1].names[j], float(scores[i, j])) for i, j in found]


def by_means(sides: tuple[Side, Side], center: bool) -> Pairs:
    parts = [centered(side) if center else side.vectors for side in sides]
    means = [unit(np.array([rows.mean(axis=0) for rows in part])) for part in parts]
    return mutual_best(means[0] @ means[1].T, sides)


def by_texts(sides: tuple[Side, Side], encode: Callable[[list[str]], np.ndarray]) -> Pairs:
    whole = [encode([" ".join(texts) for texts in side.texts]) for side in sides]
    rows = [unit(vectors - vectors.mean(axis=0)) for vectors in whole]
    return mutual_best(rows[0] @ rows[1].T, sides)


def by_all(sides: tuple[Side, Side]) -> Pairs:
    parts = [centered(side) for side in sides]
    scores = [[bimax(source, target) for target in parts[1]] for source in parts[0]]
    return mutual_best(np.array(scores), sides)


def by_transform(sides: tuple[Side, Side], k: int) -> Pairs:
    import apache_beam as beam
    import pyarrow as pa

    from beam_gpte import Block, PairDocuments, WriteVectorsToParquet
    from beam_gpte.core.vectors.similarity import vectors_to_arrow

    def blocks(side: Side) -> list[Block]:
        names = [name for name, texts in zip(side.names, side.texts, strict=True) for _ in texts]
        vectors = vectors_to_arrow(np.concatenate(side.vectors).astype(np.float32))
        columns = {"id": pa.array(range(len(names))), "doc": names, "embedding": vectors}
        whole = Block.from_pydict(columns)
        return [whole.slice(start, 256) for start in range(0, len(whole), 256)]

    with tempfile.TemporaryDirectory() as folder:
        with beam.Pipeline("FnApiRunner") as p:
            both: dict[str, Any] = {
                name: p | name >> beam.Create(blocks(side)).with_output_types(Block)
                for name, side in zip(("source", "target"), sides, strict=True)
            }
            both | PairDocuments("doc", k) | WriteVectorsToParquet(folder)
        table = pl.read_parquet(f"{folder}/*.parquet")
    return table.select("source_document", "target_document", "score").rows()


def report(name: str, right: set[tuple[str, str]], found: Callable[[], Pairs]) -> None:
    """Print what a method finds, and its seconds."""
    began, clock = time.process_time(), time.perf_counter()
    pairs = found()
    seconds, elapsed = time.process_time() - began, time.perf_counter() - clock
    ordered = sorted(pairs, key=lambda pair: -pair[2])
    hits = np.cumsum([pair[:2] in right for pair in ordered])
    f1 = 200 * hits / (np.arange(1, len(hits) + 1) + len(right))
    precision, recall = 100 * hits[-1] / len(pairs), 100 * hits[-1] / len(right)
    print(
        f"{name:15} {len(pairs):5} pairs, precision {precision:.1f}, recall {recall:.1f}, F1 "
        f"{f1[-1]:.1f}, best {f1.max():.1f} from a score of {ordered[int(f1.argmax())][2]:.3f}; "
        f"{seconds:.1f} CPU s, {elapsed:.1f} s",
        flush=True,
    )


def compare(
    sides: tuple[Side, Side],
    right: set[tuple[str, str]],
    encode: Callable[[list[str]], np.ndarray],
    options: argparse.Namespace,
) -> None:
    """Print what all methods find."""
    report("mean", right, lambda: by_means(sides, False))
    report("mean, centered", right, lambda: by_means(sides, True))
    if options.text:
        report("text", right, lambda: by_texts(sides, encode))
    report("PairDocuments", right, lambda: by_transform(sides, options.k))
    if options.all:
        report("all", right, lambda: by_all(sides))


def main() -> None:
    claim_process()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompt_name")
    parser.add_argument("--documents", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--missing", type=float, nargs="+", default=[0.0])
    parser.add_argument("--k", type=int, default=8, help="candidates of PairDocuments")
    parser.add_argument("--text", action="store_true", help="embed whole documents, too")
    parser.add_argument("--all", action="store_true", help="score all pairs of documents, too")
    options = parser.parse_args()

    from beam_gpte import EncoderConfig, TextEncoder

    encoder = TextEncoder.load(EncoderConfig(options.model, prompt_name=options.prompt_name))
    documents = read_documents(options.file)
    common = sorted(set(documents["de"]) & set(documents["en"]))
    settings = itertools.product(options.documents, options.missing)
    chosen = [choose(common, count, missing) for count, missing in settings]
    of_langs = [
        (lang, doc)
        for of_sides in chosen
        for lang, docs in zip(LANGUAGES, of_sides, strict=True)
        for doc in docs
    ]
    texts = sorted({text for lang, doc in of_langs for text in documents[lang][doc]})
    began = time.process_time()
    encoded = dict(zip(texts, unit(encoder.encode(texts)), strict=True))
    print(f"{len(texts)} sentences embedded in {time.process_time() - began:.0f} CPU s", flush=True)
    for of_sides in chosen:
        sides, right = make_sides(documents, encoded, of_sides)
        print(f"{len(of_sides[0])} documents a side, {len(right)} with a translation")
        compare(sides, right, encoder.encode, options)


if __name__ == "__main__":
    main()
