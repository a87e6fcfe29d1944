"""Make the inputs of `benchmarks/engines.py`: docstrings of installed packages, and cheap vectors.

A vector is the mean of the model's word vectors, of which rare words weigh more, less the mean of
all and their first direction: real texts, at a thousandth of the cost of embedding them (Arora,
Liang and Ma, "A simple but tough-to-beat baseline for sentence embeddings", 2017).
"""

import hashlib
import itertools
import json
import random
import sysconfig
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from beam_gpte.cli.programs.extract_docstrings import docstrings as extracted
from beam_gpte.core.vectors.similarity import unit_rows, vectors_to_arrow
from beam_gpte.elements.block import Block
from beam_gpte.embedding.ensure_vectors import unit_vectors

FILES = 4  # of each input, one for each slot of two hosts
MAX_CHARACTERS = 2000
MAX_TOKENS = 256  # that the model sees
SKEWED = 0.3  # of the rows lie around one center
CENTER = 1.5  # its weight, with a text's own vector as 1: cosines of about 0.7 to one another
NOISE = 0.05  # of each number of a translation's vector, where the vector's length is 1
RARE = 1e-3  # share of all words: a word that is as frequent weighs half


def docstrings(folder: Path, rows: int) -> list[str]:
    """Give different docstrings in a random but fixed order; kept in a file."""
    kept = folder / f"docstrings-{rows}.json"
    if not kept.exists():
        found = itertools.chain.from_iterable(
            extracted(Path(sysconfig.get_path(name))) for name in ("stdlib", "purelib")
        )
        texts = (row["text"] for row in found if len(row["text"]) < MAX_CHARACTERS)
        different: dict[str, None] = {}
        while len(different) < rows:
            different[next(texts)] = None
        shuffled = random.Random(0).sample(list(different), rows)
        kept.write_text(json.dumps(shuffled), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


def tokens_of(texts: list[str], model: Path) -> list[list[int]]:
    """Give the tokens of texts that the model sees."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return [one.ids for one in tokenizer.encode_batch(texts)]


def word_vectors(texts: list[str], model: Path) -> np.ndarray:
    """Make unit vectors, float32 (n, dim), of texts."""
    weights = load_file(model / "model.safetensors")
    (table,) = (w for name, w in weights.items() if name.endswith("word_embeddings.weight"))
    tokens = [np.array(ids[1:-1], int) for ids in tokens_of(texts, model)]
    counts = np.bincount(np.concatenate(tokens), minlength=len(table))
    weight = RARE / (RARE + counts / counts.sum())
    means = [weight[ids] @ table[ids] / max(1, len(ids)) for ids in tokens]
    vectors = np.array(means, np.float32)
    vectors -= vectors.mean(axis=0)
    common = np.linalg.eigh(vectors.T @ vectors)[1][:, -1:]
    return unit_rows(vectors - vectors @ common @ common.T)


def around_one_center(vectors: np.ndarray) -> np.ndarray:
    """Move a part of the vectors, spread evenly, to one of them, so that a cell has them all.

    Usually a crowd gets as many cells as its share of the rows. Fitting starts from the vector with
    the smallest key, among others; where that is the center, its cell takes the whole crowd.
    """
    center = vector_keys(vectors).argmin()
    for seed in range(100):
        crowd = np.random.default_rng(seed).random(len(vectors)) < SKEWED
        crowd[center] = False
        moved = vectors.copy()
        moved[crowd] = unit_rows(moved[crowd] + CENTER * vectors[center])
        if vector_keys(moved).argmin() == center:
            return moved
    raise ValueError("in every try a moved vector has a smaller key than the center")


def vector_keys(vectors: np.ndarray) -> np.ndarray:
    """Give the keys, uint64 (n,), by which deduplication orders vectors."""
    block = Block.from_pydict({"embedding": vectors_to_arrow(vectors)})
    unit = unit_vectors(block, "embedding")
    digests = b"".join(hashlib.blake2b(vector, digest_size=8).digest() for vector in unit)
    return np.frombuffer(digests, np.uint64)


def translated(vectors: np.ndarray) -> np.ndarray:
    """Make vectors near to given ones."""
    noise = np.random.default_rng(0).standard_normal(vectors.shape, np.float32)
    return unit_rows(vectors + NOISE / 2 * noise)


def write_texts(texts: list[str], folder: Path) -> None:
    """Write JSON Lines of ids and texts."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        rows = list(enumerate(texts))[number::FILES]
        lines = [json.dumps({"id": f"{i:07}", "text": text}) + "\n" for i, text in rows]
        (folder / f"{number}.jsonl").write_text("".join(lines), encoding="utf-8")


def texts_in(folder: Path) -> list[str]:
    """Read what `write_texts` has written."""
    files = sorted(folder.glob("*.jsonl"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [json.loads(line)["text"] for line in lines]


def write_vectors(texts: list[str], vectors: np.ndarray, folder: Path) -> None:
    """Write Parquet of ids, texts and vectors."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        ids = [f"{i:07}" for i in range(number, len(texts), FILES)]
        arrays = [pa.array(ids), pa.array(texts[number::FILES])]
        arrays.append(vectors_to_arrow(np.ascontiguousarray(vectors[number::FILES])))
        table = pa.table(arrays, ["id", "text", "embedding"])
        pq.write_table(table, folder / f"{number}.parquet")
