"""What mining finds and costs: MineBitext in a pipeline against a gold alignment, and against two faiss searches.

    pip install faiss-cpu
    python benchmarks/bitext.py FILE.parquet --model MODEL [--rounds 3] [--rows 4000,20000]
    python benchmarks/bitext.py DOCUMENTS.parquet --model MODEL --documents

The file has columns `side` (src or tgt), `id`, `text`, and `gold`: equal values are a translation, null has none.
Embedded once, with the prompt "query: " and at most 128 tokens, and kept beside the file as FILE.vectors.parquet.

Quality: precision, recall and F1 by setting; `best` is the threshold of the largest F1, found by going through all pairs.
The pairs of LASER's setting are compared with those of a plain float64 search in NumPy.

Documents: a file with columns `lang` (de, en), `doc`, `par` and `sent`: sentence `sent` of paragraph `par` on one side
translates that of the same numbers on the other, if the paragraph has as many sentences on both. Mining within documents is
compared with mining among all, on these sentences; and the n:m aligner is run on whole documents. Of its beads that have a
sentence of a paragraph with unequal numbers, those that stay within one paragraph are counted, and how many sentences of
these paragraphs they leave out.

Cost: CPU seconds with one thread. `two faiss searches` are IndexFlatIP in both directions, k = 4; `search` is
`core.neighbors`, both directions out of one product; `MineBitext` the whole transform on Beam's in-process runner, from
blocks with vectors to pairs with texts. Peak memory is that of a process of its own.
"""

import argparse
import atexit
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

K = 4
SETTINGS: dict[str, dict[str, Any]] = {
    "laser (ratio, max)": {
        "margin": "ratio",
        "retrieval": "max",
        "center": False,
        "deduplicate": False,
        "max_length_ratio": None,
    },
    "laser, intersection": {
        "margin": "ratio",
        "retrieval": "intersection",
        "center": False,
        "deduplicate": False,
        "max_length_ratio": None,
    },
    "defaults": {},
    "defaults, in cells": {"search": "cells"},
    "defaults, no filter": {"max_length_ratio": None},
    "posterior": {"threshold": "posterior"},
}


def embedded(path: Path, model: str | None) -> Path:
    kept = path.with_suffix(".vectors.parquet") if model else path
    if kept.exists():
        return kept
    from beam_gpte import EncoderConfig, TextEncoder

    table = pq.read_table(path)
    encoder = TextEncoder.load(EncoderConfig(str(model), prompt="query: ", max_tokens=128))
    vectors = encoder.encode(table["text"].to_pylist())
    array = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), encoder.dim)
    pq.write_table(table.append_column(encoder.metadata.field("embedding"), array), kept)
    return kept


def side(path: Path, name: str, rows: int | None = None) -> pa.Table:
    table = pq.read_table(path)
    return table.filter(
        pc.equal(table["side"].cast(pa.string()), {"source": "src", "target": "tgt"}[name])
    ).slice(0, rows)


def blocks(path: Path, name: str, rows: int | None) -> Iterator[Any]:
    from beam_gpte import Block

    table = side(path, name, rows).select(["id", "text", "gold", "embedding"])
    for start in range(0, len(table), 256):
        yield Block.from_table(table.slice(start, 256))


def mine(path: Path, rows: int | None, settings: dict[str, Any]) -> list[dict]:
    import apache_beam as beam

    from beam_gpte import Block, MineBitext, WriteVectorsToParquet

    with tempfile.TemporaryDirectory() as folder:
        with beam.Pipeline("FnApiRunner") as p:
            both = {}
            for name in ("source", "target"):
                read = beam.FlatMap(lambda name: blocks(path, name, rows)).with_output_types(Block)
                both[name] = p | name >> beam.Create([name]) | f"read {name}" >> read
            (both | MineBitext(**settings)).pairs | WriteVectorsToParquet(folder)
        return pq.read_table(sorted(Path(folder).glob("*.parquet"))).to_pylist()


def scores(pairs: list[dict], gold: int) -> tuple[float, float, float]:
    right = sum(
        row["source_gold"] is not None and row["source_gold"] == row["target_gold"] for row in pairs
    )
    precision, recall = right / max(1, len(pairs)), right / gold
    return 100 * precision, 100 * recall, 200 * right / max(1, len(pairs) + gold)


def best(pairs: list[dict], gold: int) -> tuple[float, float]:
    """The largest F1, and the margin it is reached at."""
    ordered = sorted(pairs, key=lambda row: -row["margin"])
    right = np.cumsum(
        [
            row["source_gold"] is not None and row["source_gold"] == row["target_gold"]
            for row in ordered
        ]
    )
    f1 = 200 * right / (np.arange(1, len(ordered) + 1) + gold)
    return float(f1.max()), ordered[int(f1.argmax())]["margin"]


def quality(path: Path, rows: int | None) -> None:
    names = [
        set(side(path, name, rows)["gold"].drop_null().to_pylist()) for name in ("source", "target")
    ]
    gold = len(names[0] & names[1])
    print(f"{'all rows' if rows is None else rows} a side, {gold} translations")
    print(
        f"{'setting':24}{'threshold':>10}{'pairs':>7}{'P':>7}{'R':>7}{'F1':>7}{'best F1':>9}{'at':>7}"
    )
    for name, settings in SETTINGS.items():
        threshold = settings.get("threshold", 1.03 if settings.get("margin") == "ratio" else 0.15)
        every = mine(path, rows, {**settings, "threshold": -1e9})
        largest, at = best(every, gold)
        if name.startswith("laser"):
            own = {(row["source_id"], row["target_id"]) for row in every}
            plain = reference(path, rows, settings["retrieval"])
            print(
                f"{len(own & plain)} of {len(plain)} pairs, and {len(own - plain)} others than those of NumPy"
            )
        if threshold == "posterior":
            pairs = mine(path, rows, settings)
            shown = f"{min(row['margin'] for row in pairs):.4f}"
        else:
            pairs, shown = [row for row in every if row["margin"] >= threshold], str(threshold)
        precision, recall, f1 = scores(pairs, gold)
        print(
            f"{name:24}{shown:>10}{len(pairs):7}{precision:7.2f}{recall:7.2f}{f1:7.2f}{largest:9.2f}{at:7.3f}",
            flush=True,
        )


def reference(path: Path, rows: int | None, retrieval: str) -> set[tuple[str, str]]:
    """LASER's mine_bitexts in float64: ratio margin over k neighbours, max or intersection."""
    ids = [side(path, name, rows)["id"].to_pylist() for name in ("source", "target")]
    both = [vectors(path, name, rows).astype(np.float64) for name in ("source", "target")]
    near, means = [], []
    for own, other in (both, both[::-1]):
        parts = []
        for start in range(0, len(own), 500):
            products = own[start : start + 500] @ other.T
            best = np.argsort(-products, axis=1, kind="stable")[:, :K]
            parts.append((best, np.take_along_axis(products, best, axis=1)))
        near.append(np.concatenate([best for best, _ in parts]))
        means.append(np.concatenate([cosine for _, cosine in parts]))
    best_of = []
    for turn, own in enumerate(near):
        ratios = means[turn] / (
            (means[turn].mean(axis=1)[:, None] + means[1 - turn].mean(axis=1)[own]) / 2
        )
        chosen = ratios.argmax(axis=1)
        rows_of = np.arange(len(own))
        pairs = np.stack([rows_of, own[rows_of, chosen]][:: 1 if turn == 0 else -1], axis=1)
        best_of.append(
            dict(zip(map(tuple, pairs.tolist()), ratios[rows_of, chosen].tolist(), strict=True))
        )
    if retrieval == "intersection":
        found = set(best_of[0]) & set(best_of[1])
    else:
        found, taken = set(), (set(), set())
        either = best_of[0] | best_of[1]
        for i, j in sorted(either, key=lambda pair: -either[pair]):
            if i not in taken[0] and j not in taken[1]:
                found.add((i, j))
                taken[0].add(i)
                taken[1].add(j)
    return {(ids[0][i], ids[1][j]) for i, j in found}


def documents(path: Path) -> None:
    """Mining within documents against mining among all, and the aligner."""
    from beam_gpte import AlignDocuments, MineBitext

    names = ["doc", "par", "sent"]
    table = pl.from_arrow(pq.read_table(path, columns=["lang", *names])).with_row_index("id")  # type: ignore[union-attr]
    table = table.with_columns(pl.col("lang", "doc").cast(pl.String), pl.col("id").cast(pl.String))
    paragraph = {row[0]: row[1:] for row in table.select("id", "doc", "par").rows()}
    german, english = (table.filter(pl.col("lang") == lang) for lang in ("de", "en"))
    counts = [side.group_by("doc", "par").len() for side in (german, english)]
    equal = counts[0].join(counts[1], on=["doc", "par", "len"])
    right = set(
        german.join(equal, on=["doc", "par"])
        .join(english, on=names)
        .select("id", "id_right")
        .rows()
    )
    decided = {id_ for pair in right for id_ in pair}
    sides = {"source": german["id"].to_list(), "target": english["id"].to_list()}
    print(
        f"{len(german)} and {len(english)} sentences in {table['doc'].n_unique()} documents, {len(right)} pairs known"
    )
    for name, settings in (("among all", {}), ("within documents", {"scope": "doc"})):
        transform = MineBitext(threshold=-1e9, deduplicate=False, max_length_ratio=None, **settings)
        found = run_on(path, sides, lambda both, transform=transform: (both | transform).pairs)
        pairs = sorted(
            ((row["margin"], row["source_id"], row["target_id"]) for row in found), reverse=True
        )
        hits = np.cumsum(_hits(pairs, right, decided))
        f1 = 200 * hits / (np.arange(1, len(hits) + 1) + len(right))
        print(f"{name:18} best F1 {f1.max():.2f}, at {int(f1.argmax()) + 1} pairs")
    beads = run_on(path, sides, lambda both: both | AlignDocuments("doc", ("par", "sent")))
    ids = [(tuple(bead["source_ids"]), tuple(bead["target_ids"])) for bead in beads]
    own = {(a[0], b[0]) for a, b in ids if len(a) == len(b) == 1 and decided & {*a, *b}}
    hit = len(own & right)
    print(
        f"aligned, 1:1       F1 {200 * hit / (len(own) + len(right)):.2f}, precision {100 * hit / len(own):.2f}"
    )
    unequal = [a + b for a, b in ids if a and b and not decided & {*a, *b}]
    within = sum(len({paragraph[id_] for id_ in bead}) == 1 for bead in unequal)
    several, others = sum(len(bead) > 2 for bead in unequal), len(table) - len(decided)
    print(
        f"paragraphs with unequal numbers of sentences: {len(unequal)} beads, {several} of several sentences, "
        f"{100 * within / len(unequal):.1f} % within one paragraph; {others - sum(map(len, unequal))} of {others} sentences "
        "in none of these"
    )


def _hits(pairs: list[tuple], right: set, decided: set) -> np.ndarray:
    """Whether each pair that has a judged sentence is right."""
    return np.array(
        [(source, target) in right for _, source, target in pairs if decided & {source, target}]
    )


def run_on(path: Path, sides: dict[str, list[str]], result: Callable[[dict], Any]) -> list[dict]:
    """The rows of what `result` makes of the sides, given by the numbers of their rows in the file."""
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


def vectors(path: Path, name: str, rows: int | None) -> np.ndarray:
    column = side(path, name, rows)["embedding"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def faiss_searches(path: Path, rows: int | None) -> Callable[[], object]:
    import faiss

    faiss.omp_set_num_threads(1)
    both = [vectors(path, name, rows) for name in ("source", "target")]

    def run() -> None:
        for own, other in (both, both[::-1]):
            index = faiss.IndexFlatIP(own.shape[1])
            index.add(other)
            index.search(own, K)

    return run


def one_product(path: Path, rows: int | None) -> Callable[[], object]:
    from beam_gpte.core.mining.neighbors import nearest_neighbors

    source, target = (vectors(path, name, rows) for name in ("source", "target"))
    return lambda: nearest_neighbors(
        source, np.arange(len(source)), target, np.arange(len(target)), K
    )


def mine_mapped(path: Path, rows: int | None) -> Callable[[], object]:
    """The transform over blocks in mapped memory, as the others have their vectors; pairs are only counted."""
    import apache_beam as beam

    from beam_gpte import Block, MineBitext

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    for name in ("source", "target"):
        batches = [block.batch for block in blocks(path, name, rows)]
        with pa.ipc.new_file(folder / name, batches[0].schema) as writer:
            for batch in batches:
                writer.write_batch(batch)

    def mapped(name: str) -> Iterator[Any]:
        file = pa.ipc.open_file(pa.memory_map(str(folder / name)))
        return (Block(file.get_batch(i)) for i in range(file.num_record_batches))

    def run() -> None:
        with beam.Pipeline("FnApiRunner") as p:
            read = beam.FlatMap(mapped).with_output_types(Block)
            both = {
                name: p | name >> beam.Create([name]) | f"read {name}" >> read
                for name in ("source", "target")
            }
            (both | MineBitext()).pairs | beam.Map(len)

    return run


METHODS: dict[str, Callable[[Path, int | None], Callable[[], object]]] = {
    "two faiss searches": faiss_searches,
    "search": one_product,
    "MineBitext": mine_mapped,
}


def run_child(
    make: Callable[[Path, Any], Callable[[], object]], options: argparse.Namespace
) -> None:
    import apache_beam  # noqa: F401  # not to be counted

    import beam_gpte  # noqa: F401

    run = make(options.file, options.size)
    began = time.process_time()
    run()
    peak = next(
        line
        for line in Path("/proc/self/status").read_text("ascii").splitlines()
        if line.startswith("VmHWM")
    )
    print(json.dumps({"cpu": time.process_time() - began, "mb": int(peak.split()[1]) / 1024}))


def in_child(program: str, options: argparse.Namespace, method: str, rows: int | None) -> dict:
    """CPU seconds and peak MB of a method, in a process with one thread."""
    one_thread = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1"
    )
    command = [sys.executable, program, str(options.file), "--child", method]
    command += [] if rows is None else ["--size", str(rows)]
    output = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | one_thread, check=True
    ).stdout
    return json.loads(output.splitlines()[-1])


def cost(options: argparse.Namespace, rows: int | None) -> None:
    figures: dict[str, list[dict]] = {method: [] for method in METHODS}
    for method in list(METHODS) * options.rounds:
        figures[method].append(in_child(__file__, options, method, rows))
    print(f"\n{'all rows' if rows is None else rows} a side, medians of {options.rounds} rounds")
    print(f"{'method':20}{'CPU s':>8}{'/ faiss':>9}{'peak MB':>9}")
    for method, own in figures.items():
        ratio = statistics.median(
            one["cpu"] / base["cpu"]
            for one, base in zip(own, figures["two faiss searches"], strict=True)
        )
        seconds, peak = (statistics.median(one[name] for one in own) for name in ("cpu", "mb"))
        print(f"{method:20}{seconds:8.2f}{ratio:9.3f}{peak:9.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", help="embeds the texts; not needed for a file with vectors")
    parser.add_argument("--rows", default="", help="of a side, with commas; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--documents", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if options.child:
        run_child(METHODS[options.child], options)
        return
    options.file = embedded(options.file, options.model)
    if options.documents:
        documents(options.file)
        return
    for rows in [int(size) for size in options.rows.split(",") if size] or [None]:
        quality(options.file, rows)
        if options.rounds:
            cost(options, rows)


if __name__ == "__main__":
    main()
