"""Distill a static model from a teacher: means of its vectors by token, principal components, SIF.

texts and vectors --> TokenSums of each part of a corpus --> plus --> token_vectors --> StaticModel

The vector of a token is the mean of the teacher's vectors of the texts that it is in, in proportion
to its share of a text's tokens. The vocabulary belongs to the corpus, each token as a text of its
own, as in model2vec (minish.ai, 2024), where there are no other texts: a token that the corpus does
not have gets that vector. What all tokens share is subtracted, `dim` principal components are kept,
and a token of frequency p counts a / (a + p) (smooth inverse frequency: Arora, Liang and Ma, 2017).

Sums are of whole numbers, so that they are the same whatever the order and the parts.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from beam_gpte.core.metadata import check_one_model
from beam_gpte.core.static.static_tokenizer import StaticTokenizer, TextIds

# Of a coordinate of a unit vector, and of a share of a text, per 1: int64 sums of 2^31 texts.
UNITS = float(1 << 20)
SHARES = float(1 << 12)

TEXTS = 256  # whose products with their tokens are computed at once
NUMBERS = 1 << 20  # of the sums that are sent together: 8 MB

MAX_TOKENS = 512  # of a text, as model2vec has it


@dataclasses.dataclass(frozen=True, eq=False)
class TokenSums:
    """Hold what some texts add to some tokens.

    Attributes:
      tokens: ascending, int64 (m,).
      counts: how often each occurs, int64 (m,).
      shares: its shares of the texts, int64 (m,), per text at most `SHARES`.
      sums: of the vectors of these texts in `UNITS`, times its share, int64 (m, d).
      models: fingerprint and canaries of the models that made the vectors, as far as known.
    """

    tokens: np.ndarray
    counts: np.ndarray
    shares: np.ndarray
    sums: np.ndarray
    models: frozenset[str] = frozenset()

    def plus(self, other: "TokenSums") -> "TokenSums":
        """Add the sums of other texts.

        Raises:
          InputError: vectors have other dimensions.
        """
        check_one_model((self.sums.shape[1], other.sums.shape[1]))
        tokens = np.union1d(self.tokens, other.tokens)
        total = no_sums(self.sums.shape[1], tokens, self.models | other.models)
        for part in (self, other):
            at = np.searchsorted(tokens, part.tokens)
            total.counts[at] += part.counts
            total.shares[at] += part.shares
            total.sums[at] += part.sums
        return total

    def parts(self) -> Iterator[tuple[int, "TokenSums"]]:
        """Yield the sums by ranges of tokens, each with its number."""
        numbers = self.tokens // max(1, NUMBERS // self.sums.shape[1])
        for number in np.unique(numbers).tolist():
            at = numbers == number
            arrays = self.tokens[at], self.counts[at], self.shares[at], self.sums[at]
            yield number, TokenSums(*arrays, self.models)


def no_sums(
    dim: int, tokens: np.ndarray | None = None, models: frozenset[str] = frozenset()
) -> TokenSums:
    """Return sums of no texts, for some tokens."""
    names = np.empty(0, np.int64) if tokens is None else tokens
    counts, shares = np.zeros((2, len(names)), np.int64)
    return TokenSums(names, counts, shares, np.zeros((len(names), dim), np.int64), models)


def add_up(parts: Iterable[TokenSums]) -> TokenSums | None:
    """Add up some sums; None for none."""
    total = None
    for part in parts:
        total = part if total is None else total.plus(part)
    return total


def sum_texts(found: TextIds, vectors: np.ndarray) -> TokenSums:
    """Sum up texts by their tokens.

    Args:
      found: the tokens of n texts.
      vectors: of the texts, float32 (n, d), of length 1.
    """
    total = no_sums(vectors.shape[1])
    ends = np.cumsum(found.counts)
    for start in range(0, len(vectors), TEXTS):
        counts = found.counts[start : start + TEXTS]
        first = ends[start] - counts[0]
        ids = found.ids[first : first + counts.sum()]
        tokens, at = np.unique(ids, return_inverse=True)
        table = np.zeros((len(tokens), len(counts)))
        np.add.at(table, (at, np.repeat(np.arange(len(counts)), counts)), 1)
        shares = np.rint(table * (SHARES / np.maximum(counts, 1)))
        units = np.rint(vectors[start : start + TEXTS].astype(np.float64) * UNITS)
        # whole numbers below 2^53: exact in any order
        sums = (shares @ units).astype(np.int64)
        occurring, share = (array.sum(axis=1).astype(np.int64) for array in (table, shares))
        total = total.plus(TokenSums(tokens.astype(np.int64), occurring, share, sums))
    return total


@dataclasses.dataclass(frozen=True, eq=False)
class StaticModel:
    """Hold a static model: what the files of one have.

    Attributes:
      vectors: of all tokens, float32 (tokens, dim); zero for special tokens.
      tokenizer: the content of tokenizer.json.
      about: how it was made, for `distill.json`.
    """

    vectors: np.ndarray
    tokenizer: str
    about: dict[str, Any]

    def files(self) -> dict[str, bytes]:
        """Return the files of a folder as model2vec writes it, those that name it last."""
        from safetensors.numpy import save

        settings = {
            "model_type": "model2vec",
            "architectures": ["StaticModel"],
            "hidden_dim": self.vectors.shape[1],
            "max_length": MAX_TOKENS,
            "normalize": True,
            "embedding_dtype": "float32",
        }
        kind = "sentence_transformers.models."
        modules = [
            {"idx": 0, "name": "0", "path": ".", "type": f"{kind}StaticEmbedding"},
            {"idx": 1, "name": "1", "path": "1_Normalize", "type": f"{kind}Normalize"},
        ]
        return {
            "model.safetensors": save({"embeddings": self.vectors}),
            "tokenizer.json": self.tokenizer.encode(),
            "distill.json": _json(self.about),
            "config.json": _json(settings),
            "modules.json": _json(modules),
        }


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True).encode()


def fit_static(sums: TokenSums, tokenizer: str, dim: int, sif: float) -> StaticModel:
    """Make a model of the sums of a corpus.

    Args:
      sums: of its texts, and of tokens as texts of their own, whose counts are 0.
      tokenizer: the content of tokenizer.json.
      dim: principal components to keep, at most the teacher's dimensions.
      sif: of smooth inverse frequency; 0 for none.
    """
    rows = load_static_tokenizer(tokenizer).size
    known = sums.shares > 0
    tokens = sums.tokens[known]
    means = sums.sums[known] / (sums.shares[known, None] * UNITS)
    frequencies = np.zeros(rows)
    frequencies[sums.tokens] = sums.counts / max(1, sums.counts.sum())
    means -= means.mean(axis=0)
    kept, explained = principal_components(means, dim)
    if sif:
        kept *= (sif / (sif + frequencies[tokens]))[:, None]
    vectors = np.zeros((rows, kept.shape[1]), np.float32)
    vectors[tokens] = kept
    about = {
        "dim": kept.shape[1],
        "explained_variance": round(explained, 6),
        "tokens_of_texts": int(sums.counts.sum()),
        "vocabulary": rows,
        "vocabulary_of_texts": int((sums.counts > 0).sum()),
    }
    return StaticModel(vectors, tokenizer, about)


def principal_components(rows: np.ndarray, dim: int) -> tuple[np.ndarray, float]:
    """Project rows, centered float64 (n, d), on their first principal components.

    Returns:
      float64 (n, min(dim, d)), and the share of the variance that is kept. Signs are such that the
      largest coefficient of a component is positive.
    """
    values, directions = np.linalg.eigh(rows.T @ rows)
    order = np.argsort(-values, kind="stable")[:dim]
    chosen = directions[:, order]
    largest = np.abs(chosen).argmax(axis=0)
    chosen *= np.where(chosen[largest, np.arange(len(order))] < 0, -1.0, 1.0)
    total = float(values.sum())
    return rows @ chosen, float(values[order].sum()) / total if total > 0 else 1.0


def load_static_tokenizer(content: str) -> StaticTokenizer:
    """Load a tokenizer from the content of tokenizer.json, as a model of it has it."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(content)
    return StaticTokenizer(backend, json.loads(content), MAX_TOKENS, is_model2vec=True)


def vocabulary_texts(content: str) -> dict[int, str]:
    """Return the text of each token that is not special and can be seen, by its number."""
    from tokenizers import Tokenizer

    settings, backend = json.loads(content), Tokenizer.from_str(content)
    special = {entry["id"] for entry in settings.get("added_tokens") or [] if entry.get("special")}
    found = {}
    for token, number in sorted(backend.get_vocab().items(), key=lambda item: item[1]):
        if number not in special:
            text = backend.decode([number]) or token
            found[number] = text.removeprefix("##").strip()
    return {number: text for number, text in found.items() if text}


@dataclasses.dataclass(frozen=True)
class Loss:
    """Measure what a model loses of its teacher, on texts that it was not made of.

    Attributes:
      texts: that were compared, each with each other.
      spearman: rank correlation of all cosines.
      neighbors: share of the `k` texts nearest to each that stay so.
      k: of them.
    """

    texts: int
    spearman: float
    neighbors: float
    k: int


def measure_loss(teacher: np.ndarray, student: np.ndarray, k: int = 10) -> Loss:
    """Compare vectors of the same texts, float32 (n, d) of length 1 each."""
    count = len(teacher)
    k = min(k, count - 1)
    if count < 3:
        return Loss(count, float("nan"), float("nan"), max(0, k))
    upper = np.triu_indices(count, 1)
    theirs, ours = teacher @ teacher.T, student @ student.T
    spearman = np.corrcoef(_ranks(theirs[upper]), _ranks(ours[upper]))[0, 1]
    near = [_nearest(cosines, k) for cosines in (theirs, ours)]
    same = (near[0][:, :, None] == near[1][:, None, :]).any(axis=2).mean()
    return Loss(count, float(spearman), float(same), k)


def _nearest(cosines: np.ndarray, k: int) -> np.ndarray:
    away = -cosines
    np.fill_diagonal(away, np.inf)
    return np.argsort(away, axis=1, kind="stable")[:, :k]


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 0, the mean of them for equal values: float64 (n,)."""
    _, at, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[at]
