"""Measure a model that a server runs: requests a second, how full they are, faults, memory, keys.

    python -m benchmarks.served [--seconds 10] [--faults 1000] [--at_once 8]

The server, a process of its own on this machine, answers 8 requests at a time, each in 50 ms: at
most 160 a second. For speed its vectors are drawn once, so that it leaves the cores to the client.
Four checks, each by a pipeline on Beam's in-process runner:

speed: `EmbedText` into Parquet, 32 texts a request; from the first request to the last answer. CPU
    a request is that which a larger run takes more, for so many requests more, of both processes.
memory: the peak of the process with four times the texts.
faults: as many injected faults as asked for (late, lost, cut, 429, 500, 503, wrong answers) among
    good answers, with bad texts among the texts; every row is then looked up in the output.
keys: a key in the environment is looked for in all outputs, logs and the pickled pipeline.
"""

import argparse
import base64
import collections
import json
import logging
import os
import pickle
import random
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_gpte import (
    Block,
    EmbedText,
    EndpointConfig,
    WriteRejects,
    WriteSummary,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.cli.runtime import counters
from tests.model_server import FAULTS, ModelServer, vector_of

AT_ONCE, SECONDS, ITEMS, DIM = 8, 0.05, 32, 384
RATE = AT_ONCE / SECONDS
ROWS = 256  # of a block
KEY = "sk-planted-by-the-benchmark"


class ReadyAnswers:
    """Answer with some of 64 vectors that were drawn and written once, by a hash of each text."""

    def __init__(self) -> None:
        drawn = (vector_of(str(i), dim=DIM).astype("<f4").tobytes() for i in range(64))
        self._written = [base64.b64encode(one).decode() for one in drawn]

    def __call__(self, texts: list[str]) -> bytes:
        """Return the body of an answer."""
        vectors = (self._written[zlib.crc32(text.encode()) % 64] for text in texts)
        data = ",".join(f'{{"index":{i},"embedding":"{one}"}}' for i, one in enumerate(vectors))
        return f'{{"data":[{data}]}}'.encode()


def serve() -> None:
    """Serve until stdin ends, then print what was asked."""
    slots = threading.Semaphore(AT_ONCE)
    with ModelServer(dim=DIM, seconds=SECONDS, slots=slots, answer=ReadyAnswers()) as server:
        print(server.url, flush=True)
        sys.stdin.read()
    asked = server.requests[1:]  # without the canaries
    sizes = [len(request["texts"]) for request in asked]
    times = [request["at"] for request in asked]
    seen = {"sizes": sizes, "seconds": max(times) - min(times) + SECONDS, "server_cpu": cpu()}
    print(json.dumps(seen))


def cpu() -> float:
    """Return the CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def blocks_of(texts: int) -> Iterator[Block]:
    for at in range(0, texts, ROWS):
        ids = list(range(at, min(at + ROWS, texts)))
        rows = [f"sentence {i} of a corpus, with some words more" for i in ids]
        yield Block.from_pydict({"id": ids, "text": rows})


def embed(texts: int, url: str, at_once: int, out: str) -> None:
    config = EndpointConfig(
        url, "bench", max_items_per_request=ITEMS, max_concurrent_requests=at_once
    )
    with beam.Pipeline("FnApiRunner") as p:
        made = p | beam.Create([texts]) | beam.FlatMap(blocks_of).with_output_types(Block)
        made | EmbedText(config) | WriteVectorsToParquet(out)


def served_run(texts: int, at_once: int) -> dict[str, Any]:
    """Embed in a process of its own: what the server saw, and the peak of the memory in MB."""
    command = [sys.executable, "-m", "benchmarks.served"]
    server = subprocess.Popen(
        [*command, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    done = subprocess.run(
        [*command, "--at_once", str(at_once), "--embed", str(texts), url],
        check=True,
        capture_output=True,
        text=True,
    )
    server.stdin.close()
    seen = json.loads(server.stdout.read())
    server.wait()
    return {**seen, **json.loads(done.stdout.splitlines()[-1])}


def measure_speed(seconds: float, at_once: int) -> None:
    texts = int(RATE * seconds) * ITEMS
    began = os.getloadavg()[0]
    runs = {size: served_run(size, at_once) for size in (texts // 4, texts)}
    for size, run in runs.items():
        rate = len(run["sizes"]) / run["seconds"]
        filled = np.mean(run["sizes"]) / ITEMS
        print(
            f"{size:,} texts: {len(run['sizes']):,} requests in {run['seconds']:.1f} s, "
            f"{rate:.0f} a second, {rate / RATE:.2f} of {RATE:.0f}; {filled:.1%} of {ITEMS} texts "
            f"each; CPU {run['cpu']:.1f} s, peak {run['mb']:.0f} MB"
        )
    small, large = runs.values()
    more = len(large["sizes"]) - len(small["sizes"])
    client, server = (1000 * (large[name] - small[name]) / more for name in ("cpu", "server_cpu"))
    print(
        f"four times the texts: {large['mb'] - small['mb']:+.0f} MB; CPU a request "
        f"{client:.1f} ms, and {server:.1f} ms of the server; {at_once} at once "
        f"(load before {began:.1f})"
    )


class Faults:
    """Give two requests of five a fault, in turn, until there were enough."""

    def __init__(self, wanted: int) -> None:
        self.given: collections.Counter = collections.Counter()
        self._wanted = wanted
        self._random = random.Random(0)
        self._kinds = [kind for kind in FAULTS if not kind.startswith("slow")]

    def __call__(self, number: int, texts: list[str]) -> str | None:
        """Return the fault of a request."""
        if number == 0 or self.given.total() >= self._wanted or self._random.random() > 0.4:
            return None
        late = self.given.total() % 50 == 0  # it takes the timeout
        kind = "slow" if late else self._kinds[self.given.total() % len(self._kinds)]
        self.given[kind] += 1
        return kind


def check_faults(wanted: int) -> None:
    faults = Faults(wanted)
    rows = 4 * (wanted * 3 // 2) * 4 // 3
    bad = {i: f"{'x' * 2000} {i}" for i in range(7, rows, 397)}
    bad |= {i: f"not finite {i}" for i in range(11, rows, 499)}
    texts = [bad.get(i, f"row {i}") for i in range(rows)]
    blocks = [
        Block.from_pydict({"id": list(range(at, min(at + 64, rows))), "text": texts[at : at + 64]})
        for at in range(0, rows, 64)
    ]
    with ModelServer(fault=faults) as server, tempfile.TemporaryDirectory() as out:
        config = EndpointConfig(server.url, "bench", max_items_per_request=4, timeout_seconds=0.4)
        began = time.monotonic()
        p = beam.Pipeline("FnApiRunner")
        made = p | beam.Create(blocks).with_output_types(Block)
        good, refused = made | EmbedText(config).with_exception_handling()
        good | WriteVectorsToParquet(f"{out}/vectors")
        refused | WriteRejects(f"{out}/rejects")
        result = p.run()
        result.wait_until_finish()
        count, seconds = counters(result), time.monotonic() - began
        table = pa.concat_tables(map(pq.read_table, Path(out, "vectors").glob("*.parquet")))
        rejected = [
            json.loads(line)["id"]
            for path in Path(out, "rejects").glob("*.jsonl")
            for line in path.read_text().splitlines()
        ]
    ids = collections.Counter([*table["id"].to_pylist(), *rejected])
    wrong = sum(
        np.abs(np.array(vector) - vector_of(text)).max() > 1e-6
        for vector, text in zip(
            table["embedding"].to_pylist(), table["text"].to_pylist(), strict=True
        )
    )
    print(
        f"{faults.given.total():,} faults ({dict(sorted(faults.given.items()))}) among "
        f"{count['requests']:,} requests of {rows:,} texts in {seconds:.0f} s: "
        f"{sum(i not in ids for i in range(rows))} lost, "
        f"{sum(n > 1 for n in ids.values())} doubled, {wrong} wrong; {len(rejected)} rejects, "
        f"{len(bad)} of them bad texts: {sorted(rejected) == sorted(bad)}"
    )


def check_keys() -> None:
    os.environ["BENCHMARK_KEY"] = KEY
    headers = {"Authorization": "Bearer ${BENCHMARK_KEY}"}
    with tempfile.TemporaryDirectory() as out, ModelServer(key=f"Bearer {KEY}") as server:
        logging.basicConfig(filename=f"{out}/log", level=logging.DEBUG, force=True)
        config = EndpointConfig(server.url, "bench", headers=headers)
        texts = [*(f"row {i}" for i in range(500)), "echo the key"]
        p = beam.Pipeline("FnApiRunner")
        rows = p | beam.Create([{"id": i, "text": text} for i, text in enumerate(texts)])
        good, refused = rows | EmbedText(config).with_exception_handling()
        good | WriteVectorsToParquet(f"{out}/vectors")
        good | WriteVectorsToDuckDB(f"{out}/vectors.duckdb")
        good | WriteSummary(f"{out}/summary.json")
        refused | WriteRejects(f"{out}/rejects")
        Path(out, "graph").write_bytes(p.to_runner_api().SerializeToString())
        Path(out, "pickle").write_bytes(pickle.dumps(EmbedText(config)))
        p.run().wait_until_finish()
        logging.shutdown()
        files = {path: path.read_bytes() for path in Path(out).rglob("*") if path.is_file()}
    sent = sum(
        request["headers"].get("Authorization") == f"Bearer {KEY}" for request in server.requests
    )
    found = [path.name for path, content in files.items() if re.search(KEY.encode(), content)]
    size = sum(map(len, files.values()))
    print(f"a key, sent {sent} times: found in {len(found)} of {len(files)} files, {size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--at_once", type=int, default=AT_ONCE, help="requests that are sent")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--embed", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    if options.embed:
        with tempfile.TemporaryDirectory() as out:
            embed(int(options.embed[0]), options.embed[1], options.at_once, out)
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps({"mb": used.ru_maxrss / 1024, "cpu": cpu()}))
        return
    measure_speed(options.seconds, options.at_once)
    if options.faults:
        check_faults(options.faults)
        check_keys()


if __name__ == "__main__":
    main()
