"""Read the vectors of all tokens of a static model: float32 (tokens, dim), in the memory once."""

import dataclasses
from typing import Any

import numpy as np

from beam_gpte.core.encoder.pretrained import named_failure
from beam_gpte.core.model_files import damage
from beam_gpte.core.static.static_folder import StaticFolder

NAMES = ("embedding.weight", "embeddings")  # of sentence-transformers, of model2vec
WEIGHTS, MAPPING = "weights", "mapping"  # of model2vec: a factor and a row for each token

# Below this share of the rows that a model has for tokens, a vocabulary is cut: sizes are padded by
# less. Vocabularies of a few hundred tokens are of tests.
_MIN_SHARE = 0.75
_SMALL_VOCABULARY = 1000

# Types of numbers in a safetensors file. bf16 is the upper half of an fp32.
_FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "i1", "BF16": "<u2"}
_INTEGERS = {"I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
_INTEGERS |= {"U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8"}


@dataclasses.dataclass(frozen=True)
class TokenVectors:
    """Hold the vectors of tokens.

    Attributes:
      vectors: float32 (n, dim), C-contiguous.
      wide: whether they are added up in float64; see `mean_tokens`.
    """

    vectors: np.ndarray
    wide: bool


def read_token_vectors(folder: StaticFolder, tokens: int) -> TokenVectors:
    """Read the vector of each token, with its factor where the model has factors.

    Args:
      folder: of the model, whose model.safetensors is whole.
      tokens: of the vocabulary.

    Raises:
      InputError: the tensors do not fit one another or the vocabulary, or have values that are not
        finite.
    """
    from safetensors import deserialize

    path = folder.place / "model.safetensors"
    with named_failure(path, "is not a safetensors file"):
        tensors = dict(deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]
    names = NAMES[1:] if folder.is_model2vec else NAMES
    found = [name for name in names if name in tensors]
    if not found:
        raise damage(path, f"has no tensor {names[0]!r}, the vectors of the tokens")
    other = sorted(tensors.keys() - {*NAMES, WEIGHTS, MAPPING})
    if other:
        raise damage(path, f"has a tensor {other[0]!r}, which is not read here")
    vectors = _floats(path, found[0], tensors[found[0]], 2)
    if found[0] == NAMES[1] and not folder.is_model2vec:
        path = folder.place / "config.json"
        raise damage(path, f"is missing, which {NAMES[1]!r} of model2vec need")
    if min(vectors.shape) == 0:
        raise damage(path, f"has {found[0]!r} of shape {list(vectors.shape)}: no vectors")
    has_rows = found[0] == NAMES[1]  # sentence-transformers reads them with that name only
    if has_rows and MAPPING in tensors:
        places = _rows(path, tensors[MAPPING], len(vectors))
        _check_size(folder, len(places), tokens)
        vectors = vectors[places]
    else:
        _check_size(folder, len(vectors), tokens)
    if has_rows and WEIGHTS in tensors:
        factors = _floats(path, WEIGHTS, tensors[WEIGHTS], 1)
        if len(factors) != len(vectors):
            raise damage(path, f"has {len(factors):,} weights for {len(vectors):,} tokens")
        vectors = vectors * factors[:, None]
    if not np.isfinite(vectors).all():
        raise damage(path, f"has values in {found[0]!r} that are not finite")
    wide = has_rows and WEIGHTS in tensors and tensors[WEIGHTS]["dtype"] == "F64"
    return TokenVectors(np.ascontiguousarray(vectors), wide)


def _check_size(folder: StaticFolder, rows: int, tokens: int) -> None:
    """Refuse a vocabulary that is cut, or larger than the model's; model2vec's are equal."""
    path = folder.place / "tokenizer.json"
    if tokens > rows:
        raise damage(
            path,
            f"has {tokens:,} tokens, but model.safetensors vectors of {rows:,}",
            "get tokenizer and weights of one model",
        )
    is_cut = rows > _SMALL_VOCABULARY and tokens < _MIN_SHARE * rows
    if is_cut or (folder.is_model2vec and tokens < rows):
        raise damage(
            path, f"is cut: it has {tokens:,} tokens, but model.safetensors vectors of {rows:,}"
        )


def _floats(path: Any, name: str, entry: dict[str, Any], dimensions: int) -> np.ndarray:
    """Return a tensor as float32."""
    kind = _FLOATS.get(entry["dtype"])
    if kind is None or len(entry["shape"]) != dimensions:
        raise damage(
            path,
            f"has {name!r} of shape {list(entry['shape'])} and type {entry['dtype']}, "
            f"not of {dimensions} dimensions and one of {', '.join(_FLOATS)}",
        )
    numbers = np.frombuffer(entry["data"], kind).reshape(entry["shape"])
    if entry["dtype"] == "BF16":
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # of fp64, which is found as not finite
        return numbers.astype(np.float32)


def _rows(path: Any, entry: dict[str, Any], rows: int) -> np.ndarray:
    """Return the row of each token."""
    kind = _INTEGERS.get(entry["dtype"])
    if kind is None or len(entry["shape"]) != 1:
        raise damage(
            path,
            f"has {MAPPING!r} of shape {list(entry['shape'])} and type {entry['dtype']}, "
            "not integers of one dimension",
        )
    found = np.frombuffer(entry["data"], kind)
    if len(found) and not 0 <= int(found.min()) <= int(found.max()) < rows:
        raise damage(path, f"has {MAPPING!r} to rows {found.min()} to {found.max()} of {rows:,}")
    return found.astype(np.int64)
