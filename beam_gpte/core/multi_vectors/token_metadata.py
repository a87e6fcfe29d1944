"""Describe the token vectors of a column in the metadata of its Arrow field.

A column of token vectors is a list of vectors per row. Its description has a key of its own, so
that what takes one vector per row does not take it for that.
"""

import dataclasses
from typing import TYPE_CHECKING

from beam_gpte.core.errors import InputError
from beam_gpte.core.format_version import FORMAT, JsonMetadata
from beam_gpte.core.vectors.quantize import check_quantization

if TYPE_CHECKING:
    import pyarrow as pa

# The key of the JSON in a field's metadata.
TOKEN_METADATA_KEY = b"beam_gpte_tokens"

TOKEN_EMBEDDINGS = "token_embeddings"
KIND = "tokens"
QUANTIZATIONS = ("float32", "int8")
# What the vectors of one column have in common.
MADE_ALIKE = ("fingerprint", "dim", "route", "pool_factor", "protected_tokens")
_STORED_ALIKE = (*MADE_ALIKE, "quantization", "int8_limit")
_STORED = {"float32": "float", "int8": "int8"}


@dataclasses.dataclass(frozen=True)
class TokenMetadata(JsonMetadata):
    """Describe how the token vectors of one column were made.

    Attributes:
      model: the name that the user gave, of a local folder without its path; never compared.
      fingerprint: hash of the weights, the tokenizer and all settings that change a vector, of
        queries or documents; vectors of equal fingerprints can be scored against one another.
      dim: dimensions of a vector.
      route: ``query`` or ``document``.
      normalized: whether every vector had length 1 before it was quantized.
      mean: whether the model's scores are divided by the vectors of the query.
      pool_factor: of token pooling; 1 for none.
      protected_tokens: how many of the first vectors pooling left as they are.
      quantization: ``float32`` or ``int8``.
      int8_limit: the value that became 127; None where each vector has its own.
      engine: precision, and whether texts ran unpadded; never compared.
      kind: ``tokens``.
      format: of what is stored, see `core.format_version`.
    """

    _what = "the token vectors"

    model: str
    fingerprint: str
    dim: int
    route: str
    normalized: bool
    mean: bool = False
    pool_factor: float = 1.0
    protected_tokens: int = 0
    quantization: str = "float32"
    int8_limit: float | None = None
    engine: str = ""
    kind: str = KIND
    format: int = FORMAT

    def field(self, name: str) -> "pa.Field":
        """Return the Arrow field of a column: list<fixed_size_list<float or int8>[dim]>."""
        import pyarrow as pa

        vector = pa.list_(pa.type_for_alias(_STORED[self.quantization]), self.dim)
        return pa.field(
            name, pa.list_(vector), metadata={TOKEN_METADATA_KEY: self.to_json().encode()}
        )

    def quantized(self, to: str, int8_limit: float | None) -> "TokenMetadata":
        """Derive the metadata of a column of codes.

        Raises:
          InputError: int8 without a limit would lose lengths.
        """
        if to == "int8" and int8_limit is None and not self.normalized:
            raise InputError(
                f"token vectors of {self.model!r} are not normalized, and int8 without a limit "
                "keeps directions only; give int8_limit"
            )
        return dataclasses.replace(self, quantization=to, int8_limit=int8_limit)


def token_metadata(field: "pa.Field") -> TokenMetadata | None:
    """Return the metadata of the token vectors in `field`; None if it has none of ours."""
    value = (field.metadata or {}).get(TOKEN_METADATA_KEY)
    return None if value is None else TokenMetadata.from_json(value)


def token_fields(schema: "pa.Schema") -> dict[str, TokenMetadata]:
    """Return the columns of token vectors of `schema` by name."""
    found = ((field.name, token_metadata(field)) for field in schema)
    return {name: metadata for name, metadata in found if metadata is not None}


def check_token_columns(
    here: "pa.Schema", there: "pa.Schema", place: str, or_else: str = ""
) -> None:
    """Refuse to put token vectors into one column that were not made and stored alike.

    Args:
      here: of the rows that arrive.
      there: of the rows that they would join.
      place: where, after the column's name in the message, as in "of one collection".
      or_else: another repair than to embed again.

    Raises:
      InputError: a column of both differs.
    """
    ours, theirs = token_fields(here), token_fields(there)
    for name in sorted(ours.keys() & theirs.keys()):
        differing = [
            f"{one} {getattr(ours[name], one)!r} and {getattr(theirs[name], one)!r}"
            for one in _STORED_ALIKE
            if getattr(ours[name], one) != getattr(theirs[name], one)
        ]
        if differing:
            raise InputError(
                f"column {name!r} {place}: token vectors of {', '.join(differing)}; embed all with "
                f"the same model and settings{or_else and f', or {or_else}'}"
            )


def check_token_quantization(to: str, int8_limit: float | None) -> None:
    """Refuse codes that token vectors are not stored as.

    Raises:
      InputError: `to` is unknown, or the limit is not a positive number or not for `to`.
    """
    if to not in QUANTIZATIONS:
        raise InputError(f"quantization {to!r}: choose {' or '.join(QUANTIZATIONS)}")
    if to == "int8":
        check_quantization(to, int8_limit)
    elif int8_limit is not None:
        raise InputError(f"int8_limit with quantization {to!r}: it is for int8; leave it out")


def check_same_tokens(here: TokenMetadata, there: TokenMetadata, place: str) -> None:
    """Refuse to mix, or to score, token vectors of two models.

    Raises:
      InputError: the dimension or the fingerprint differs.
    """
    if (here.dim, here.fingerprint) != (there.dim, there.fingerprint):
        raise InputError(
            f"{place}: token vectors of {here.model!r} and {there.model!r}, fingerprints "
            f"{here.fingerprint} and {there.fingerprint}; embed both with the same model and "
            "settings"
        )
