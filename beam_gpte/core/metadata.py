"""What a column of vectors says of itself.

Every embedding column carries a `VectorMetadata` in the metadata of its Arrow field, so two corpora that were embedded
differently can be told apart wherever they meet: in a pipeline, in a Parquet folder, in a DuckDB table.
"""

import dataclasses
import hashlib
import json
from typing import Any

import pyarrow as pa

from beam_gpte.core.errors import InputError

KEY = b"beam_gpte"

# What a column holds of a vector of each quantisation; one byte has eight dimensions of a binary one.
STORED = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "binary": pa.uint8()}


@dataclasses.dataclass(frozen=True)
class VectorMetadata:
    """How the vectors of one column were made.

    Attributes:
      model: the name or folder the user gave; for people, never compared.
      fingerprint: hash of weights, tokenizer and all settings that change a vector; equal means comparable.
      pooling: e.g. ``mean``, ``cls``, ``last``.
      prompt: the text put before every input, empty for none.
      dim: dimensions of a vector, also where eight are in a byte.
      normalized: whether every vector has length 1, before it was quantised.
      quantization: ``float32``, ``float16``, ``int8`` or ``binary``.
      int8_limit: the value that became 127; None where each vector has its own.
      postprocess: what was done to the model's vectors, in order; for people, never compared.
      engine: precision, and whether texts ran unpadded or why not; for people, never compared.
    """

    model: str
    fingerprint: str
    pooling: str
    prompt: str
    dim: int
    normalized: bool
    quantization: str = "float32"
    int8_limit: float | None = None
    postprocess: str = ""
    engine: str = ""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "VectorMetadata":
        fields = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in json.loads(text).items() if name in fields})

    def field(self, name: str) -> pa.Field:
        """The Arrow field of a column of these vectors: a list of `dim` numbers, or of ceil(dim / 8) bytes."""
        length = -(-self.dim // 8) if self.quantization == "binary" else self.dim
        return pa.field(
            name,
            pa.list_(STORED[self.quantization], length),
            metadata={KEY: self.to_json().encode()},
        )

    def derive(self, settings: dict[str, Any]) -> "VectorMetadata":
        """The metadata after a further step: a fingerprint of its own, out of this one's and the step's settings."""
        content = json.dumps([self.fingerprint, settings], sort_keys=True)
        return dataclasses.replace(
            self, fingerprint=hashlib.sha256(content.encode()).hexdigest()[:16]
        )


def vector_metadata(field: pa.Field) -> VectorMetadata | None:
    """What `field` says of its vectors; None for a column that is no embedding of ours."""
    value = (field.metadata or {}).get(KEY)
    return None if value is None else VectorMetadata.from_json(value)


def vector_fields(schema: pa.Schema) -> dict[str, VectorMetadata]:
    """The embedding columns of `schema` by name."""
    found = ((field.name, vector_metadata(field)) for field in schema)
    return {name: metadata for name, metadata in found if metadata is not None}


def check_same_vectors(here: VectorMetadata, there: VectorMetadata, what: str) -> None:
    """Refuse to mix vectors of two kinds; `what` names the place where they would meet.

    Raises:
      InputError: the dimension or the fingerprint differs.
    """
    if here.dim != there.dim:
        raise InputError(
            f"{what}: vectors of {here.dim} and {there.dim} dimensions; "
            f"embed both with the same model ({here.model!r} and {there.model!r} now) or write to another place"
        )
    if here.fingerprint != there.fingerprint:
        told = (
            "model",
            "pooling",
            "prompt",
            "normalized",
            "quantization",
            "int8_limit",
            "postprocess",
        )
        names = [name for name in told if getattr(here, name) != getattr(there, name)]
        difference = (
            ", ".join(f"{f} {getattr(here, f)!r} and {getattr(there, f)!r}" for f in names)
            or "weights or settings"
        )
        raise InputError(
            f"{what}: vectors of fingerprints {here.fingerprint} and {there.fingerprint} ({difference}); "
            "embed both with the same model and settings, or write to another place"
        )
