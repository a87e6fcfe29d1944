"""Edit a corpus of documents with chunks at random, and sync it, ten times.

    python -m benchmarks.sync_edits MODEL [--documents 1000] [--edits 1000] [--syncs 10] [--seed 1]

After each sync the folder and the database are compared with a fresh run of the same documents, row
for row, and the texts that were embedded with those that are new. Seconds are of the sync and of
the fresh run right after it.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from beam_gpte import EncoderConfig
from tests.embedding.edits import Corpus, difference, rows_of, sync


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--syncs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    config = EncoderConfig(options.model, long_text="chunks", chunk_tokens=16)
    corpus, wrong = Corpus(options.documents, options.seed), 0
    names = ("added", "changed", "removed", "unchanged")
    heads = ("sync", "new texts", "embedded", *names, "seconds", "fresh")
    print("".join(f"{head:>11}" for head in heads), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "out")
        sync(corpus, config, output)
        for number in range(options.syncs):
            new = corpus.edit(options.edits // options.syncs)
            began = time.monotonic()
            done = sync(corpus, config, output)
            between = time.monotonic()
            fresh = Path(folder, f"fresh-{number}")
            sync(corpus, config, fresh)
            seconds = f"{between - began:.1f}", f"{time.monotonic() - between:.1f}"
            counts = [done.changes[f"rows_{name}"] for name in names]
            figures = (number + 1, new, done.embedded, *counts, *seconds)
            print("".join(f"{figure:>11}" for figure in figures), flush=True)
            wanted = rows_of(fresh)
            for place in (output, f"{output}.duckdb"):
                if problem := difference(rows_of(place), wanted):
                    wrong += 1
                    print(f"{place}: {problem}")
            if done.embedded != new:
                wrong += 1
                print(f"{done.embedded} texts were embedded, and {new} are new")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
