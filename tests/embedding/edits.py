"""Edit a corpus of documents at random, sync it, and compare the result with a fresh run.

documents --> edits, inserts, deletes --> `EmbedText(reuse=...)`, mode="sync" --> as a fresh run?
"""

import dataclasses
import random
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl

from beam_gpte import (
    Block,
    EmbedText,
    EncoderConfig,
    ReplaceOptions,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.cli.runtime import counters
from beam_gpte.sources.read_vectors import read_vectors

WORDS = [
    "river",
    "stone",
    "light",
    "paper",
    "morning",
    "engine",
    "garden",
    "silver",
    "winter",
    "letter",
    "music",
    "window",
]
ROWS_PER_BLOCK = 64
TOLERANCE = 1e-5  # of vectors of one text in two batches


@dataclasses.dataclass(frozen=True)
class Synced:
    """Count what a sync did.

    Attributes:
      embedded: texts that the model ran on.
      changes: rows by what happened to them, in the folder.
    """

    embedded: int
    changes: dict[str, int]


class Corpus:
    """Hold documents, each of a few chunks, and change them at random."""

    def __init__(self, size: int, seed: int) -> None:
        self._random = random.Random(seed)
        self._made = 0
        self.texts: dict[str, str] = {}
        for _ in range(size):
            self._insert()

    def _insert(self) -> None:
        self._made += 1
        self.texts[f"d{self._made}"] = self._text()

    def _text(self) -> str:
        self._made += 1
        words = self._random.choices(WORDS, k=self._random.randrange(5, 60))
        return " ".join([str(self._made), *words])

    def edit(self, times: int) -> int:
        """Edit, insert and delete; return how many texts are there now that were not before."""
        before = set(self.texts.values())
        for _ in range(times):
            what = self._random.choice(("edit", "edit", "insert", "delete"))
            if what == "insert":
                self._insert()
                continue
            some = self._random.choice(sorted(self.texts))
            if what == "edit":
                self.texts[some] = self._text()
            else:
                del self.texts[some]
        return len(set(self.texts.values()) - before)

    def blocks(self) -> list[Block]:
        """Return the documents in a random order."""
        ids = sorted(self.texts)
        self._random.shuffle(ids)
        parts = [ids[i : i + ROWS_PER_BLOCK] for i in range(0, len(ids), ROWS_PER_BLOCK)]
        return [
            Block.from_pydict({"id": part, "text": [self.texts[name] for name in part]})
            for part in parts
        ]


def sync(corpus: Corpus, config: EncoderConfig, output: Path) -> Synced:
    """Make a folder and a database hold the chunks of the documents."""
    there = str(output) if output.exists() else None
    pipeline = beam.Pipeline("FnApiRunner")
    embed = EmbedText(config, reuse=there)
    vectors = pipeline | beam.Create(corpus.blocks()) | embed
    replacing = ReplaceOptions(allow_empty=True)
    vectors | WriteVectorsToParquet(str(output), "sync", replacing=replacing)
    vectors | WriteVectorsToDuckDB(f"{output}.duckdb", mode="sync", replacing=replacing)
    result: Any = pipeline.run()
    result.wait_until_finish()
    count = counters(result, "WriteVectorsToParquet")
    changes = {name: n for name, n in count.items() if name.startswith("rows_")}
    return Synced(counters(result).get("texts", 0), changes)


def rows_of(path: Path | str) -> pl.DataFrame:
    """Read all rows, by id."""
    frames = [pl.DataFrame(block) for block in read_vectors(str(path))]
    return pl.concat(frames).sort("id") if frames else pl.DataFrame({"id": []})


def difference(found: pl.DataFrame, wanted: pl.DataFrame) -> str:
    """Say how rows differ from those of a fresh run; vectors may in their last bits."""
    plain = [name for name in wanted.columns if name != "embedding"]
    if not found.select(plain).equals(wanted.select(plain)):
        return f"{len(found)} rows, not {len(wanted)}, or others"
    vectors = (frame["embedding"].to_numpy() for frame in (found, wanted))
    apart = float(np.abs(np.subtract(*vectors)).max(initial=0))
    return f"vectors are {apart} apart" if apart > TOLERANCE else ""
