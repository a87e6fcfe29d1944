"""Score pairs of texts by the vectors of their tokens: `LateInteraction.score(pairs)`.

queries ----> token vectors --+
                              +--> MaxSim --> float32 (n,), in input order
documents --> token vectors --+

Each distinct text is run once, whatever the number of its pairs; a cross-encoder runs each pair.
"""

from pathlib import Path

import numpy as np

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.errors import InputError
from beam_gpte.core.multi_vectors.max_sim import max_sim
from beam_gpte.core.multi_vectors.token_encoder import TokenEncoder
from beam_gpte.core.multi_vectors.token_folder import DOCUMENT, QUERY
from beam_gpte.core.scorers.pair_scorer import Scoring, check_pairs
from beam_gpte.core.scorers.settings import ScoreSettings

DOCUMENT_BYTES = 32 << 20  # of the documents' vectors at once, or those of one document


class LateInteraction:
    """Score pairs with a loaded model of token vectors, such as ColBERT.

    Scores are those of sentence-transformers' `MultiVectorEncoder.similarity_pairwise`. A text that
    is too long for its side loses its last tokens.
    """

    def __init__(self, encoder: TokenEncoder) -> None:
        self.config = encoder.config
        self._encoder = encoder

    @classmethod
    def load(
        cls,
        config: EncoderConfig | str,
        root: Path | None = None,
        adapter: Path | None = None,
        settings: ScoreSettings | None = None,
    ) -> "LateInteraction":
        """Load a model from a hub name or a folder.

        Args:
          config: the model; a string means a model with all defaults.
          root: the local folder that holds the model where `config.model` names a remote place.
          adapter: none; for the signature of all loaders.
          settings: has to be the default.

        Raises:
          InputError: the model does not exist, makes no token vectors, or is damaged.
        """
        if settings not in (None, ScoreSettings()):
            raise InputError(f"scoring {settings!r}: a model of token vectors has none; leave out")
        return cls(TokenEncoder.load(config, root, adapter))

    @property
    def unpadded(self) -> bool:
        """Return whether texts run end to end, without padding; see `core.encoder.unpadded`."""
        return self._encoder.unpadded

    def score(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        """Return float32 (n,), in the order of the pairs.

        Raises:
          InputError: a pair cannot be scored; the message names its position.
        """
        return self.score_with_counts(pairs).checked()

    def score_with_counts(self, pairs: list[tuple[str, str]]) -> Scoring:
        """Score pairs, each distinct text once, and count the work; see `Scoring`.

        Raises:
          InputError: `pairs` is not a list of pairs of strings.
        """
        check_pairs(pairs)
        sides = [list(dict.fromkeys(pair[side] for pair in pairs)) for side in (0, 1)]
        places = [{text: i for i, text in enumerate(texts)} for texts in sides]
        at = np.array([[places[side][pair[side]] for side in (0, 1)] for pair in pairs], int)
        at = at.reshape(-1, 2)
        queries = self._encoder.encode_with_counts(sides[0], QUERY)
        scores, failed = np.full(len(pairs), np.nan, np.float32), dict[int, str]()
        pieces = self._encoder.prepare(sides[1], DOCUMENT)
        runs = [queries]
        for part in self._encoder.parts(pieces, DOCUMENT_BYTES):
            pooling = self._encoder.pooling(DOCUMENT)
            found = self._encoder.run(sides[1][part], pieces[part], pooling)
            (rows,) = np.nonzero((at[:, 1] >= part.start) & (at[:, 1] < part.stop))
            here = at[rows] - [0, part.start]
            scores[rows] = max_sim(queries.vectors, found.vectors, here, self._encoder.mean)
            for row, (query, document) in zip(rows.tolist(), here.tolist(), strict=True):
                reason = queries.failed.get(query) or found.failed.get(document)
                if reason is not None:
                    failed[row] = reason
            runs.append(found)
        none = np.zeros(0, np.int64)
        tokens = queries.tokens, np.concatenate([none, *(run.tokens for run in runs[1:])])
        dropped = queries.dropped, np.concatenate([none, *(run.dropped for run in runs[1:])])
        return Scoring(
            scores=scores,
            tokens=tokens[0][at[:, 0]] + tokens[1][at[:, 1]],
            dropped=dropped[0][at[:, 0]] + dropped[1][at[:, 1]],
            needed=sum(run.needed for run in runs),
            computed=sum(run.computed for run in runs),
            retries=sum(run.retries for run in runs),
            failed=dict(sorted(failed.items())),
        )
