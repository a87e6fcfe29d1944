"""Configure how many token vectors of a document are kept, and as what numbers."""

import dataclasses

from beam_gpte.core.errors import InputError
from beam_gpte.core.multi_vectors.token_metadata import check_token_quantization
from beam_gpte.core.multi_vectors.token_pooling import TokenPooling


@dataclasses.dataclass(frozen=True)
class TokenStorage:
    """Choose what of the token vectors is stored; both options cost some of the ranking.

    Attributes:
      pool_factor: keep about one of so many vectors of a document, means of clusters of Ward's
        method (token pooling, arXiv 2409.14683); 1 keeps all. Default: the pooling of the model's
        files, which few have.
      protected_tokens: how many of a document's first vectors pooling leaves as they are.
      quantization: ``float32``, or ``int8``, a quarter of the bytes.
      int8_limit: the value that becomes 127, as in `QuantizeVectors`. Default: the largest absolute
        value of each vector, which is best for vectors of length 1.
    """

    pool_factor: float | None = None
    protected_tokens: int = 1
    quantization: str = "float32"
    int8_limit: float | None = None

    def __post_init__(self) -> None:
        check_token_quantization(self.quantization, self.int8_limit)
        if self.pool_factor is None and self.protected_tokens != 1:
            raise InputError(
                f"protected_tokens {self.protected_tokens!r} without a pool_factor; give both"
            )
        _ = self.pooling  # checks the settings

    @property
    def pooling(self) -> TokenPooling | None:
        """Return the pooling; None for that of the model's files."""
        if self.pool_factor is None:
            return None
        return TokenPooling(self.pool_factor, self.protected_tokens)
