"""Describe the vectors of a column in the metadata of its Arrow field.

Every embedding column carries a `VectorMetadata`, so two corpora that were embedded differently can
be distinguished wherever they are combined: in a pipeline, a Parquet folder, or a DuckDB table.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from beam_gpte.core import canaries
from beam_gpte.core.errors import InputError
from beam_gpte.core.format_version import FORMAT, JsonMetadata

if TYPE_CHECKING:
    import pyarrow as pa

# The key of the JSON in a field's metadata.
METADATA_KEY = b"beam_gpte"

# Name of the Arrow type of a stored element per quantization; a byte holds eight dimensions of a
# binary vector.
STORED_TYPES = {"float32": "float32", "float16": "float16", "int8": "int8", "binary": "uint8"}

# The settings that an error lists when two fingerprints differ.
_COMPARED = (
    "model",
    "pooling",
    "prompt",
    "route",
    "normalized",
    "quantization",
    "int8_limit",
    "postprocess",
)


@dataclasses.dataclass(frozen=True)
class VectorMetadata(JsonMetadata):
    """Describe how the vectors of one column were made.

    Attributes:
      model: the name that the user gave, of a local folder without its path; informational, never
        compared.
      fingerprint: hash of the weights, the tokenizer and all settings that change a vector; equal
        fingerprints mean comparable vectors.
      pooling: e.g. ``mean``, ``cls``, ``last``.
      prompt: the text put before every input, empty for none.
      dim: dimensions of a vector, also where a byte holds eight.
      normalized: whether every vector had length 1 before it was quantized.
      quantization: ``float32``, ``float16``, ``int8`` or ``binary``.
      int8_limit: the value that became 127; None where each vector has its own.
      postprocess: the steps applied to the model's vectors, in order; informational, never
        compared.
      engine: precision, and whether texts ran unpadded or why not; informational, never compared.
      canaries: what the model made of a few fixed texts, before `quantization` and `postprocess`,
        see `core.canaries`; compared within a tolerance. Empty in data of earlier versions.
      format: of what is stored, see `core.format_version`.
      mapped: the fingerprints of the model that made the vectors, and of the one in whose space
        `ApplyVectorMap` put them, a space between; empty for none.
      route: the modules that ran, of a model with several for several kinds of text; empty for
        others.
      modality: ``text`` or ``image`` where a model has a tower for each, whose vectors are of one
        space; empty where it takes texts alone; informational, never compared.
    """

    _what = "the vectors"

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
    canaries: str = ""
    format: int = FORMAT
    mapped: str = ""
    route: str = ""
    modality: str = ""

    @property
    def identity(self) -> str:
        """Return the fingerprint and the canaries, for `different_models`."""
        return f"{self.fingerprint} {self.canaries}"

    def field(self, name: str) -> "pa.Field":
        """Return the Arrow field of a column of these vectors.

        Its type is a list of `dim` numbers, or of ceil(dim / 8) bytes for binary vectors.
        """
        import pyarrow as pa  # the encoder alone does without, as on a machine with a GPU

        length = -(-self.dim // 8) if self.quantization == "binary" else self.dim
        return pa.field(
            name,
            pa.list_(pa.type_for_alias(STORED_TYPES[self.quantization]), length),
            metadata={METADATA_KEY: self.to_json().encode()},
        )

    def derive(self, settings: dict[str, Any]) -> "VectorMetadata":
        """Return the metadata after a further step, whose `settings` enter the new fingerprint."""
        content = json.dumps([self.fingerprint, settings], sort_keys=True)
        return dataclasses.replace(
            self, fingerprint=hashlib.sha256(content.encode()).hexdigest()[:16]
        )


def vector_metadata(field: "pa.Field") -> VectorMetadata | None:
    """Return the metadata of the vectors in `field`; None if it is not an embedding of ours."""
    value = (field.metadata or {}).get(METADATA_KEY)
    return None if value is None else VectorMetadata.from_json(value)


def vector_fields(schema: "pa.Schema") -> dict[str, VectorMetadata]:
    """Return the embedding columns of `schema` by name."""
    found = ((field.name, vector_metadata(field)) for field in schema)
    return {name: metadata for name, metadata in found if metadata is not None}


def check_same_vectors(
    here: VectorMetadata, there: VectorMetadata, place: str, or_else: str = ""
) -> None:
    """Refuse to mix two kinds of vectors.

    Args:
      here: of the vectors that arrive.
      there: of the vectors that they would join.
      place: names, for the message, where both would be combined.
      or_else: another repair than to embed again, as in "write to another place".

    Raises:
      InputError: the dimension or the fingerprint differs, or canaries differ by more than their
        tolerance.
    """
    also = or_else and f", or {or_else}"
    if here.dim != there.dim:
        raise InputError(
            f"{place}: vectors of {here.dim} and {there.dim} dimensions; "
            f"embed both with the same model ({here.model!r} and {there.model!r} now){also}"
        )
    if here.fingerprint != there.fingerprint:
        names = [name for name in _COMPARED if getattr(here, name) != getattr(there, name)]
        difference = (
            ", ".join(f"{f} {getattr(here, f)!r} and {getattr(there, f)!r}" for f in names)
            or "weights or settings"
        )
        raise InputError(
            f"{place}: vectors of fingerprints {here.fingerprint} and {there.fingerprint} "
            f"({difference}); embed both with the same model and settings{also}"
        )
    if canaries.differ(here.canaries, there.canaries):
        raise InputError(f"{place}: {changed_model(here, there)}{also}")


def made_alike(here: VectorMetadata, there: VectorMetadata) -> bool:
    """Decide whether one model and one setting made both: by fingerprint, then by canaries."""
    return here.fingerprint == there.fingerprint and not canaries.differ(
        here.canaries, there.canaries
    )


def changed_model(here: VectorMetadata, there: VectorMetadata) -> str:
    """Describe vectors of one fingerprint whose canaries differ."""
    found = canaries.distance(here.canaries, there.canaries)
    return (
        f"vectors of one fingerprint, {here.fingerprint}, but {here.model!r} and {there.model!r} "
        f"make different ones of the same text (cosine {1 - found:.6f}, "
        f"{1 - canaries.tolerance(here.canaries)} is allowed): a library or the model's code has "
        "changed; embed both with the same versions"
    )


def check_one_model(dims: Iterable[int], identities: Iterable[str] = ()) -> None:
    """Refuse vectors of one collection that were not made alike.

    Args:
      dims: of the vectors of each part.
      identities: `VectorMetadata.identity` of each part; empty where it is not known.

    Raises:
      InputError: dimensions or models differ.
    """
    found = sorted(set(dims))
    if len(found) > 1:
        raise InputError(
            f"vectors of {found[0]} and {found[1]} dimensions in one collection; embed all with "
            "the same model"
        )
    if difference := different_models(set(identities) - {""}):
        raise InputError(
            f"vectors of two models in one collection, {difference}; embed all with the same model"
        )


def different_models(identities: set[str]) -> str:
    """Describe how vectors of one collection were not made alike; empty if they were.

    Args:
      identities: `VectorMetadata.identity` of each part.
    """
    known = sorted(identity.rpartition(" ")[::2] for identity in identities)
    for fingerprint, seen in known[1:]:
        if fingerprint != known[0][0]:
            return f"fingerprints {known[0][0]} and {fingerprint}"
        if canaries.differ(known[0][1], seen):
            return f"both of fingerprint {fingerprint}, which differ on the same text"
    return ""
