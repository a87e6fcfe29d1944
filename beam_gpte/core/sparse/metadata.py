"""Describe sparse vectors in the metadata of the Arrow fields of their two columns.

The key is not that of dense vectors: what reads those never takes a list of weights for one.
"""

import dataclasses
from typing import TYPE_CHECKING

from beam_gpte.core.errors import InputError
from beam_gpte.core.format_version import FORMAT, JsonMetadata

if TYPE_CHECKING:
    import pyarrow as pa

# The key of the JSON in a field's metadata.
SPARSE_KEY = b"beam_gpte_sparse"


@dataclasses.dataclass(frozen=True)
class SparseMetadata(JsonMetadata):
    """Describe how the sparse vectors of two columns were made.

    Attributes:
      model: the name that the user gave, of a local folder without its path; informational.
      fingerprint: hash of the weights, the tokenizer and all settings that change a weight or which
        terms stay; equal fingerprints mean comparable vectors.
      dim: terms of the vocabulary; indices are below.
      route: that ran, of a model with several, such as ``query``; else empty.
      pooling: how the weights of tokens become one weight per term, such as ``max``.
      prompt: the text put before every input, empty for none.
      max_active: maximum number of terms of a text; None for all.
      min_weight: terms whose weight is not larger were dropped.
      engine: precision, and whether texts ran unpadded or why not; informational.
      kind: ``sparse``.
      format: of what is stored, see `core.format_version`.
    """

    _what = "the sparse vectors"

    model: str
    fingerprint: str
    dim: int
    route: str
    pooling: str
    prompt: str
    max_active: int | None
    min_weight: float
    engine: str = ""
    kind: str = "sparse"
    format: int = FORMAT

    def fields(self, indices: str, values: str) -> tuple["pa.Field", "pa.Field"]:
        """Return the Arrow fields of the columns of these names, a list of int32 and of float32."""
        import pyarrow as pa

        return (
            self.describe(pa.field(indices, pa.list_(pa.int32()))),
            self.describe(pa.field(values, pa.list_(pa.float32()))),
        )

    def describe(self, field: "pa.Field") -> "pa.Field":
        """Return the field of one of the two columns with this metadata."""
        return field.with_metadata({SPARSE_KEY: self.to_json().encode()})


def check_same_sparse(here: "pa.Schema", there: "pa.Schema", place: str, or_else: str = "") -> None:
    """Refuse to mix sparse vectors of two models, or pruned in two ways, in one column.

    Args:
      here: the columns that arrive.
      there: the columns that they would join.
      place: names, for the message, where both would be combined.
      or_else: another repair than to embed again.

    Raises:
      InputError: a column has two fingerprints.
    """
    for field in here:
        ours = sparse_metadata(field)
        theirs = sparse_metadata(there.field(field.name)) if field.name in there.names else None
        if ours is not None and theirs is not None and ours.fingerprint != theirs.fingerprint:
            raise InputError(
                f"column {field.name!r} {place}: sparse vectors of fingerprints "
                f"{ours.fingerprint} and {theirs.fingerprint} ({ours.model!r} and "
                f"{theirs.model!r}); embed both with the same model, route and settings"
                f"{or_else and f', or {or_else}'}"
            )


def sparse_fields(schema: "pa.Schema") -> dict[str, SparseMetadata]:
    """Return the columns of sparse vectors of `schema` by name, two for each vector."""
    found = ((field.name, sparse_metadata(field)) for field in schema)
    return {name: metadata for name, metadata in found if metadata is not None}


def sparse_metadata(field: "pa.Field") -> SparseMetadata | None:
    """Return the metadata of the sparse vectors in `field`; None if it is not a column of ours."""
    value = (field.metadata or {}).get(SPARSE_KEY)
    return None if value is None else SparseMetadata.from_json(value)
