"""Say how MinHash signatures were made, so that those made otherwise are not compared with them."""

import json

import numpy as np
import pyarrow as pa

from beam_gpte.core.errors import InputError
from beam_gpte.core.text.minhash import MinHash, shingles, signatures

FORMAT = 1
# in the order in which they are compared; the canary follows from the others
PARAMETERS = ("format", "num_perm", "shingle", "unit", "scope", "canary")
KEY = b"beam_gpte.signature"  # of the field's metadata
_CANARY = "the quick brown fox jumps over the lazy dog, and it is 12 o'clock"


def describe(minhash: MinHash, scope: str | None) -> bytes:
    """Give the parameters as JSON, with the signature of a fixed text: no other hash has it."""
    canary = signatures(shingles([_CANARY], minhash.shingle, minhash.unit), minhash.num_perm)
    parameters = {
        "format": FORMAT,
        "num_perm": minhash.num_perm,
        "shingle": minhash.shingle,
        "unit": minhash.unit,
        "scope": scope,
        "canary": canary[0, :4].tolist(),
    }
    return json.dumps(parameters, sort_keys=True).encode()


def signature_field(name: str, minhash: MinHash, scope: str | None) -> pa.Field:
    """Give the field of a column of signatures, a list of `num_perm` uint32 each."""
    kind = pa.list_(pa.uint32(), minhash.num_perm)
    return pa.field(name, kind, metadata={KEY: describe(minhash, scope)})


def check_signatures(field: pa.Field, minhash: MinHash, scope: str | None) -> None:
    """Refuse signatures that were made otherwise.

    Raises:
      InputError: names what differs.
    """
    stored = (field.metadata or {}).get(KEY)
    if stored is None:
        raise InputError(
            f"column {field.name!r} does not say how its signatures were made; make them by "
            "SignTexts, and read them with ReadVectors"
        )
    known, wanted = json.loads(stored), json.loads(describe(minhash, scope))
    differing = [name for name in PARAMETERS if known.get(name) != wanted[name]]
    if differing:
        name = differing[0]
        raise InputError(
            f"signatures were made with {name} {known.get(name)!r}, and texts are compared with "
            f"{wanted[name]!r}; sign the texts again, or use the same"
        )


def agreement(matrix: np.ndarray, firsts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Estimate the Jaccard similarity of pairs of texts, float32 (n,).

    The share of the columns in which two signatures agree; its standard error is
    sqrt(j (1 - j) / num_perm): 0.035 at 0.8 with 128 columns.

    Args:
      matrix: uint32 (texts, num_perm).
      firsts: int64 (n,), rows of it.
      seconds: int64 (n,), as well.
    """
    return (matrix[firsts] == matrix[seconds]).mean(axis=1, dtype=np.float32)
