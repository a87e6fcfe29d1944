"""Compare ClusterVectors with faiss and scikit-learn, and predict the cost of a million rows.

    python -m benchmarks.cluster_vectors compare [--peers PYTHON] [--rows 100000] [--clusters 250]
    python -m benchmarks.cluster_vectors scale [--rows 100000] [--many 1000000] [--clusters 250]

Rows are synthetic, 384 numbers around one of 3,000 directions of very different sizes, in Parquet
files that are read anew by each method: ours by blocks, the others as one matrix. PYTHON is an
interpreter with `faiss-cpu`, `scikit-learn` and `pyarrow`. Each method runs in a process of its
own, from the files to the number of the cluster of each row, ours in one thread, the others in as
many as they like:

    faiss          Kmeans(spherical=True), its 25 iterations over 256 rows of each cluster
    scikit-learn   MiniBatchKMeans(), batches of 10,000, 3 epochs

Costs are CPU seconds and memory of the whole process, imports included; loss is the mean cosine
distance to the nearest center. `scale` predicts the many rows from two small numbers of rows: what
does not depend on them, such as fitting the sample, and so much for each row.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.process_costs import Costs, run_program

DIM, GROUPS, FILE_ROWS = 384, 3000, 50_000
ITERATIONS = 3
LIMIT = 7200  # seconds
OURS, SCRATCH, FAISS, SKLEARN = "ours", "ours, scratch", "faiss", "scikit-learn"

PEER_SCRIPT = """
import json, sys, time
import numpy as np
import pyarrow.parquet as pq
method, folder, output, clusters = sys.argv[1:]
k = int(clusters)
vectors = pq.read_table(folder, columns=["embedding"])["embedding"].combine_chunks()
vectors = vectors.flatten().to_numpy().reshape(len(vectors), -1)
if method == "faiss":
    import faiss
    kmeans = faiss.Kmeans(vectors.shape[1], k, spherical=True, seed=1)
    kmeans.train(vectors)
    centers = kmeans.centroids
    kmeans.index.search(vectors, 1)
else:
    from sklearn.cluster import MiniBatchKMeans
    kmeans = MiniBatchKMeans(k, batch_size=10_000, max_iter=3, n_init=1, random_state=0)
    kmeans.fit(vectors)
    kmeans.predict(vectors)
    centers = kmeans.cluster_centers_
np.save(output, centers / np.linalg.norm(centers, axis=1, keepdims=True))
"""


def write_rows(folder: Path, rows: int) -> None:
    """Write unit vectors around directions, the n-th of which has a weight of 1 / sqrt(n)."""
    random = np.random.default_rng(0)
    directions = random.standard_normal((GROUPS, DIM))
    weights = 1 / np.sqrt(np.arange(1, GROUPS + 1))
    for start in range(0, rows, FILE_ROWS):
        count = min(FILE_ROWS, rows - start)
        group = random.choice(GROUPS, count, p=weights / weights.sum())
        vectors = directions[group] + 1.5 * random.standard_normal((count, DIM))
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)
        table = pa.table({"id": pa.array(np.arange(start, start + count)), "embedding": column})
        pq.write_table(table, folder / f"{start:09}.parquet", row_group_size=8192)


def cluster(folder: str, output: str, clusters: int, scratch: str) -> None:
    """Run ours: read files by blocks, cluster, write numbers of clusters and the loss."""
    import apache_beam as beam

    from beam_gpte import Block, ClusterVectors
    from beam_gpte.core.process import claim_process

    claim_process()

    def blocks(path: str):  # noqa: ANN202
        for batch in pq.ParquetFile(path).iter_batches(256):
            yield Block(batch)

    def numbers(block: Block) -> bytes:
        return block.column("cluster").to_numpy().tobytes()

    def loss(block: Block) -> float:
        return float(block.column("rows").to_numpy() @ block.column("mean_distance").to_numpy())

    paths = sorted(map(str, Path(folder).glob("*.parquet")))
    with beam.Pipeline("FnApiRunner") as pipeline:
        rows = pipeline | beam.Create(paths) | beam.FlatMap(blocks).with_output_types(Block)
        result = rows | ClusterVectors(clusters, ITERATIONS, scratch=scratch or None)
        assigned = result.rows | beam.Map(numbers)
        assigned | beam.io.WriteToText(f"{output}.numbers", coder=beam.coders.BytesCoder())
        result.clusters | beam.Map(loss) | "Loss" >> beam.io.WriteToText(f"{output}.loss")


def run(method: str, folder: Path, clusters: int, peers: str = "") -> tuple[Costs, float]:
    """Run a method in a process, and give its costs and loss."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        output, module = f"{place}/out", "benchmarks.cluster_vectors"
        if method in (OURS, SCRATCH):
            scratch = place if method == SCRATCH else ""
            code = (
                f"from {module} import cluster; cluster{(str(folder), output, clusters, scratch)}"
            )
            costs = run_program([sys.executable, "-c", code], Path(place, "log"), list, list, LIMIT)
            total = sum(float(path.read_text()) for path in Path(place).glob("out.loss*"))
            return costs, total / pq.read_table(folder, columns=["id"]).num_rows
        command = [peers, "-c", PEER_SCRIPT, method, str(folder), f"{output}.npy", str(clusters)]
        costs = run_program(command, Path(place, "log"), list, list, LIMIT)
        return costs, loss_of(folder, np.load(f"{output}.npy"))


def loss_of(folder: Path, centers: np.ndarray) -> float:
    """Compute the mean distance of all rows to their nearest center."""
    total, rows = 0.0, 0
    for path in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(8192):
            vectors = batch["embedding"].flatten().to_numpy().reshape(-1, DIM)
            total += (1 - (vectors @ centers.T).max(axis=1)).sum(dtype=np.float64)
            rows += len(vectors)
    return total / rows


def compare(options: argparse.Namespace) -> None:
    methods = [OURS, SCRATCH, *([FAISS, SKLEARN] if options.peers else [])]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name, "rows")
        folder.mkdir()
        write_rows(folder, options.rows)
        print(f"{'':16}{'CPU s':>8}{'s':>8}{'MB':>8}{'loss':>9}")
        for number in range(options.rounds):
            for method in methods:
                costs, loss = run(method, folder, options.clusters, options.peers)
                print(
                    f"{method:16}{costs.python:8.1f}{costs.seconds:8.1f}{costs.peak:8.0f}"
                    f"{loss:9.5f}{'' if options.rounds == 1 else f'  round {number + 1}'}",
                    flush=True,
                )


def scale(options: argparse.Namespace) -> None:
    """Fit the model to two small runs, and compare it with a large one."""
    few, k = options.rows, options.clusters

    def measure(rows: int) -> float:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name, "rows")
            folder.mkdir()
            write_rows(folder, rows)
            costs, loss = run(SCRATCH, folder, k)
        found = {"CPU s": round(costs.python, 1), "MB": round(costs.peak), "loss": round(loss, 5)}
        print(f"{rows} rows, {k} clusters: {json.dumps(found)}", flush=True)
        return costs.python

    one, two = measure(few), measure(2 * few)
    each = (two - one) / few
    predicted = one + (options.many - few) * each
    print(f"{one - few * each:.1f} CPU s, and {1e6 * each:.0f} microseconds for each row")
    print(f"{options.many} rows: {predicted:.0f} CPU s predicted", flush=True)
    print(f"predicted / measured {predicted / measure(options.many):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs = parser.add_subparsers(required=True)
    for job in (compare, scale):
        arguments = jobs.add_parser(job.__name__)
        arguments.set_defaults(job=job)
        arguments.add_argument("--rows", type=int, default=100_000)
        arguments.add_argument("--clusters", type=int, default=250)
        arguments.add_argument("--folder", help="for the rows, on a disk; a temporary one if none")
        if job is compare:
            arguments.add_argument("--peers", default="")
            arguments.add_argument("--rounds", type=int, default=1)
        else:
            arguments.add_argument("--many", type=int, default=1_000_000)
    options = parser.parse_args()
    options.job(options)


if __name__ == "__main__":
    main()
