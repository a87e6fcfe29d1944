"""Keep what a model makes of a few fixed texts, and compare it with what another made of them.

A fingerprint lists what is known to change vectors; canaries show what did change them: another
version of a library, a file that no list names, an encoder of the same name. They are not hashed,
because two kinds of CPU differ by 1e-7.
"""

import base64
import hashlib
import math

import numpy as np

# Case, accents, scripts, numbers, a tokenizer's own names, blanks: what settings change first.
TEXTS = [
    "The  cat sat\ton the mat.",
    "Größe, ÀÉ naïve",
    "東京 Привет",
    "x² = $1,234.5 <s> [MASK] 🙂",
]

# Raise it when `TEXTS` or the sketch change: canaries of two versions are not compared.
VERSION = 1

# Largest distance, 1 - cosine for vectors of one length, at which two vectors of a text are the
# same. Products in half precision differ by 1e-4 between machines; that of a user's own encoder is
# not known, and services answer with as much noise. In int8 a last digit of fp32 turns into a step
# of a code wherever a value lies between two.
TOLERANCES = {"fp32": 1e-5, "bf16": 1e-3, "fp16": 1e-3, "int8": 2e-3, "unknown": 1e-3}

# Numbers kept of a vector: signed sums of its values, from which distances come out within a
# factor of 2 (64 squares of a normal variable: the chance of less than half is 1 in 1,500).
SKETCH = 64
_SLACK = 2


def sketch(vectors: np.ndarray, precision: str, version: str = str(VERSION)) -> str:
    """Describe the vectors of `TEXTS` in about a kilobyte of text.

    Args:
      vectors: floats (len(TEXTS), dim); those that are not finite count as zero.
      precision: a key of `TOLERANCES`.
      version: another one for as many vectors of something else, such as images.
    """
    finite = np.isfinite(vectors).all(axis=1, keepdims=True)
    small = np.where(finite, vectors, 0).astype(np.float64)
    if small.shape[1] > SKETCH:
        small = small @ _signs(small.shape[1])
    lengths = np.linalg.norm(small, axis=1, keepdims=True)
    directions = np.divide(small, lengths, out=np.zeros_like(small), where=lengths > 0)
    # rounded to 11 bits: two kinds of CPU nearly always give the same text
    mantissas, exponents = np.frexp(lengths)
    rounded = np.ldexp(np.rint(mantissas * 2048) / 2048, exponents)
    content = rounded.astype("<f4").tobytes() + directions.astype("<f2").tobytes()
    return f"{version}:{precision}:{base64.b64encode(content).decode()}"


def distance(here: str, there: str) -> float:
    """Return the largest distance of the vectors of one text, by the results of `sketch`.

    It is |a - b|^2 / (2 |a| |b|): 1 - cosine for vectors of one length. 0 where either side has no
    canaries, or those of another version.
    """
    kinds = {canaries.rpartition(":")[0] for canaries in (here, there)}
    if here == there or len(kinds) > 1:
        return 0.0
    (a, a_lengths), (b, b_lengths) = _read(here), _read(there)
    if a.shape != b.shape:
        return math.inf
    product = a_lengths * b_lengths
    squares = np.square(a - b).sum(axis=1)
    unlike = np.divide(squares, 2 * product, out=np.full(len(a), math.inf), where=product > 0)
    unlike[squares == 0] = 0
    return float(unlike.max())


def tolerance(canaries: str) -> float:
    """Return the distance above which vectors are not the same; see `TOLERANCES`."""
    return TOLERANCES.get(canaries.split(":")[1], TOLERANCES["unknown"]) if canaries else math.inf


def differ(here: str, there: str) -> bool:
    """Decide whether one model cannot have made both canaries."""
    return distance(here, there) > tolerance(here) / _SLACK


def _read(canaries: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors that were sketched, float64 (texts, numbers), and their lengths."""
    content = base64.b64decode(canaries.rpartition(":")[2])
    split = 4 * len(TEXTS)
    lengths = np.frombuffer(content[:split], "<f4").astype(np.float64)
    directions = np.frombuffer(content[split:], "<f2").astype(np.float64)
    return directions.reshape(len(TEXTS), -1) * lengths[:, None], lengths


def _signs(dim: int) -> np.ndarray:
    """Return float64 (dim, SKETCH) of +-1 / sqrt(SKETCH), the same everywhere and forever."""
    drawn = hashlib.shake_256(b"beam_gpte canaries").digest(dim * SKETCH // 8)
    bits = np.unpackbits(np.frombuffer(drawn, np.uint8)).reshape(dim, SKETCH)
    return (bits * 2.0 - 1) / math.sqrt(SKETCH)
