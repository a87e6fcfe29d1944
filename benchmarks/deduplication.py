"""Measure semantic deduplication against faiss, SemHash and a SemDeDup-like join.

    pip install faiss-cpu semhash
    python benchmarks/deduplication.py --texts FILE.parquet --cache FOLDER [--rows 50000]
        [--variant whole|first|pieces] [--thresholds .8 .9 .95] [--rounds 3] [--methods NAME ...]
    python benchmarks/deduplication.py --texts FILE.parquet --cache FOLDER --growth [25000,50000]
        [--peer_rows 200000]
    python benchmarks/deduplication.py --million [--workers 2]

`deduplication_methods.py` describes the texts, their vectors and the synthetic million.

DeduplicateSemantic keeps rows and vectors in a folder (`scratch`), or else in the shuffles of
Beam's local runner. Every measurement is a separate process, with one thread, that reads the
vectors from their file, so that memory is each method's alone. CPU seconds are those of the work;
start-up (imports) is shown separately. `brute force` is the oracle: all with all, in blocks. Recall
is the share of its pairs of distinct vectors that a method finds, and the share of the rows it
removes (greedily in order of ids: rows near to a row kept before) that the method removes too;
`extra`: further removals.
"""

import argparse
import importlib.util
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from deduplication_methods import FAISS, METHODS, ORACLE, OURS, load, vectors_file

from beam_gpte.core.process import claim_process


def used() -> tuple[float, float]:
    """Measure CPU seconds, of this process and its children that have ended, and peak memory in MB.

    The memory is of this process alone.
    """
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    # not ru_maxrss: a process begins with its parent's
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM"))
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return seconds, int(peak.split()[1]) / 1024


def run_child(options: argparse.Namespace) -> None:
    """Run one method once: what it found goes to a file, its costs to a line of JSON."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if options.child.startswith(OURS):
        claim_process()
    method = METHODS[options.child]
    for module in method.modules:
        importlib.import_module(module)
    start_s, start_mb = used()
    began = time.perf_counter()
    saved_index = Path(options.saved_index).read_bytes() if options.saved_index else None
    ours = {}
    if options.child == OURS:
        ours = {"workers": options.workers, "saved_index": saved_index}
    found = method.run(options.vectors, options.rows, options.thresholds[0], **ours)
    wall = time.perf_counter() - began
    end_s, mb = used()
    figures = {"cpu": end_s - start_s, "start_s": start_s, "wall": wall}
    figures |= {"mb": mb, "start_mb": start_mb, "search_s": found.pop("search_s", None)}
    figures |= {"removed": len(found["removed"]), "pairs": len(found["pairs"])}
    np.savez(options.found, **found)
    print(json.dumps(figures))


def run(
    method: str,
    vectors: str,
    rows: int,
    threshold: float,
    folder: str,
    workers: int = 1,
    saved_index: str = "",
) -> dict[str, Any]:
    """Measure one method in a separate process; `mb` is of that and its children together.

    Args:
      method: its name.
      vectors: a file of vectors; none for synthetic ones.
      rows: how many of them.
      threshold: minimum cosine.
      folder: for what it found.
      workers: processes, of ours.
      saved_index: a file with the index that ours searches in, instead of fitting one.
    """
    found = f"{folder}/{list(METHODS).index(method)}.npz"
    arguments = {
        "child": method,
        "vectors": vectors,
        "rows": rows,
        "thresholds": threshold,
        "found": found,
        "workers": workers,
        "saved_index": saved_index,
    }
    flags = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
    # the path: Beam's worker processes import deduplication_methods
    environment = (
        os.environ | dict.fromkeys(threads, "1") | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    process = subprocess.Popen(
        [sys.executable, __file__, *flags], stdout=subprocess.PIPE, text=True, env=environment
    )
    peak = 0.0
    while workers > 1 and process.poll() is None:
        peak = max(peak, held_by(process.pid))
        time.sleep(0.5)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{method} ended with {process.returncode}; its error is above")
    figures = json.loads(output.splitlines()[-1])
    return figures | {"found": found, "mb": max(peak, figures["mb"])}


def held_by(pid: int) -> float:
    """Measure the MB that a process and its descendants hold, what they share counted once."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
        lines = dict(line.split(":", 1) for line in text.splitlines()[1:])
        files = Path(f"/proc/{pid}/task").glob("*/children")
        children = [int(child) for file in files for child in file.read_text("ascii").split()]
    except OSError:  # it has ended
        return 0.0
    return int(lines["Pss"].split()[0]) / 1024 + sum(map(held_by, children))


class Quality(NamedTuple):
    """Compare what a method found with the truth.

    Attributes:
      pairs: of distinct vectors that it found.
      of_pairs: share of the truth's pairs.
      of_removed: share of the truth's removals.
      extra: further removals.
    """

    pairs: int
    of_pairs: float
    of_removed: float
    extra: int


def quality(found: str, truth: str, vectors: str, rows: int) -> Quality:
    values = load(vectors, 0, rows)
    _, first, number = np.unique(
        values.view(f"V{values.strides[0]}")[:, 0], return_index=True, return_inverse=True
    )
    pairs, removed = [], []
    for file in (found, truth):
        with np.load(file) as arrays:
            ends = np.sort(first[number][arrays["pairs"]], axis=1)
            pairs.append(np.unique((ends[:, 0] * rows + ends[:, 1])[ends[:, 0] < ends[:, 1]]))
            removed.append(np.unique(arrays["removed"]))
    shares = [
        float(np.isin(true, ours).sum() / max(1, len(true))) for ours, true in (pairs, removed)
    ]
    return Quality(len(pairs[0]), *shares, len(np.setdiff1d(removed[0], removed[1])))


def median(figures: list[dict[str, Any]], name: str) -> float:
    return statistics.median(one[name] for one in figures)


def compare(options: argparse.Namespace, folder: str) -> None:
    """Run all methods on the same rows, taking turns."""
    vectors, rows = vectors_file(options, options.variant, options.rows), options.rows
    for threshold in options.thresholds:
        figures: dict[str, list[dict[str, Any]]] = {method: [] for method in options.methods}
        for method in options.methods * options.rounds:
            figures[method].append(run(method, vectors, rows, threshold, folder))
        title = f"{rows} rows ({options.variant}), threshold {threshold}"
        print(f"\n{title}, medians of {options.rounds} rounds")
        costs = (
            f"{'method':25}{'CPU s':>7}{'/ faiss':>8}{'+ start':>8}{'peak MB':>8}{'of start':>9}"
        )
        recalls = f"{'recall':>8}{'extra':>6}{'pairs':>9}{'recall':>8}"
        print(f"{costs}{'removed':>8}{recalls if ORACLE in figures else ''}")
        for method, runs in figures.items():
            line = costs_of(method, runs, figures.get(FAISS, []))
            if ORACLE in figures:
                truth = figures[ORACLE][0]["found"]
                found = quality(runs[0]["found"], truth, vectors, rows)
                line += (
                    f"{found.of_removed:8.4f}{found.extra:6}{found.pairs:9}{found.of_pairs:8.4f}"
                )
            print(line)
        if FAISS in figures:
            search = f"{median(figures[FAISS], 'search_s'):.2f} of its CPU seconds are the search"
            print(f"faiss: {search}, the rest is grouping")


def costs_of(method: str, runs: list[dict[str, Any]], base: list[dict[str, Any]]) -> str:
    ratios = [one["cpu"] / other["cpu"] for one, other in zip(runs, base, strict=False)]
    seconds = median(runs, "cpu")
    cpu = f"{seconds:7.2f}{statistics.median(ratios or [np.nan]):8.3f}"
    memory = f"{median(runs, 'mb'):8.0f}{median(runs, 'start_mb'):9.0f}"
    total = seconds + median(runs, "start_s")
    return f"{method:25}{cpu}{total:8.2f}{memory}{runs[0]['removed']:8}"


def grow(options: argparse.Namespace, folder: str) -> None:
    """Run the transform on more and more rows, and faiss up to `peer_rows`."""
    vectors = vectors_file(options, options.variant, max(options.growth))
    for threshold in options.thresholds:
        title = f"growth ({options.variant}), threshold {threshold}"
        print(f"\n{title}; ~: quadratic in the last size measured")
        print(
            f"{'rows':>8}{'CPU s':>9}{'ms a row':>9}{'peak MB':>8}{'removed':>9}"
            f"{'faiss s':>10}{'/ faiss':>8}{'recall':>8}"
        )
        measured: dict[str, list[tuple[int, float, float]]] = {OURS: [], FAISS: []}
        for rows in options.growth:
            ours, mark, share = run(OURS, vectors, rows, threshold, folder), "~", ""
            measured[OURS].append((rows, ours["cpu"], ours["mb"]))
            if rows <= options.peer_rows:
                peer = run(FAISS, vectors, rows, threshold, folder)
                measured[FAISS].append((rows, peer["cpu"], peer["mb"]))
                found = quality(ours["found"], peer["found"], vectors, rows)
                mark, share = " ", f"{found.of_removed:8.4f}"
            last_rows, last_s, _ = measured[FAISS][-1] if measured[FAISS] else (rows, np.nan, 0)
            seconds = last_s * (rows / last_rows) ** 2
            cost = f"{ours['cpu']:9.2f}{1000 * ours['cpu'] / rows:9.3f}{ours['mb']:8.0f}"
            peer_cost = f"{mark:>2}{seconds:8.1f}{ours['cpu'] / seconds:8.3f}{share}"
            print(f"{rows:8}{cost}{ours['removed']:9}{peer_cost}", flush=True)
        for method, figures in measured.items():
            if len(figures) > 1:
                sizes, cpu, mb = np.log(np.array(figures)).T
                in_time, in_memory = (np.polyfit(sizes, costs, 1)[0] for costs in (cpu, mb))
                powers = f"rows^{in_time:.2f}, peak memory as rows^{in_memory:.2f}"
                print(f"{method}: CPU seconds grow as {powers}")


def synthetic(options: argparse.Namespace, folder: str) -> None:
    for threshold in options.thresholds:
        ours = run(OURS, "", options.million, threshold, folder, options.workers)
        title = f"{options.million} synthetic rows, threshold {threshold}"
        costs = f"{ours['wall']:.0f} s, {ours['cpu']:.0f} CPU s, {ours['mb']:.0f} MB"
        print(
            f"\n{title}, {options.workers} processes: {costs} in all processes together;", end=" "
        )
        print(f"{ours['removed']} rows removed, {ours['pairs']} pairs")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--texts", type=Path)
    add("--column", default="text")
    add("--cache", type=Path, help="folder for vectors")
    variants = ["whole", "first", "pieces"]
    add("--variant", choices=variants, help="default: whole; with --growth: pieces")
    add("--rows", type=int, default=50_000)
    add("--thresholds", type=float, nargs="+", default=[0.9])
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add("--rounds", type=int, default=1)
    sizes = "25000,50000,100000,200000,400000"
    add("--growth", nargs="?", const=sizes, help="rows, with commas")
    peer_rows = "with --growth: maximum number of rows for faiss"
    add("--peer_rows", type=int, default=100_000, help=peer_rows)
    add("--million", nargs="?", type=int, const=1_000_000, help="synthetic rows")
    add("--workers", type=int, default=2, help="processes, with --million")
    for inner in ("--child", "--vectors", "--found", "--saved_index"):
        add(inner, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return options
    options.variant = options.variant or ("pieces" if options.growth else "whole")
    options.growth = sorted(map(int, options.growth.split(","))) if options.growth else None
    methods = [OURS] if options.million else [OURS, FAISS] if options.growth else options.methods
    modules = {module for name in methods for module in METHODS[name].modules}
    missing = [name for name in sorted(modules) if not importlib.util.find_spec(name)]
    if missing:
        parser.error(
            f"no module {', '.join(missing)}; install what the head of this file lists, or choose "
            "--methods"
        )
    if not options.million and not (options.texts and options.cache):
        parser.error("give --texts and --cache; only --million needs neither")
    return options


def main() -> None:
    options = parse()
    if options.child:
        run_child(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        (synthetic if options.million else grow if options.growth else compare)(options, folder)


if __name__ == "__main__":
    main()
