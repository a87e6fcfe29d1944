"""Scores of models of token vectors are those of sentence-transformers."""

from pathlib import Path

import numpy as np
import pytest

from beam_gpte import EncoderConfig, InputError, ScoreSettings
from beam_gpte.core.scorers import late_interaction
from beam_gpte.core.scorers.late_interaction import LateInteraction
from beam_gpte.core.scorers.load_scorer import load_scorer
from tests.core.multi_vectors import tiny_models
from tests.core.multi_vectors.tiny_models import TEXTS

PAIRS = [(query, document) for query in ("w1 w2", "w9?", "w1 w2 w3 w4") for document in TEXTS]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("late")
    made = {}
    for name in ("pylate", "stanford", "mean"):
        folder: Path = root / name
        folder.mkdir()
        kind = tiny_models.stanford if name == "stanford" else tiny_models.pylate
        given = {"similarity_fn_name": "meanmaxsim"} if name == "mean" else {}
        made[name] = kind(folder, **given)
    return made


@pytest.mark.parametrize("name", ["pylate", "stanford", "mean"])
def test_scores_are_those_of_sentence_transformers(folders: dict[str, str], name: str) -> None:
    from sentence_transformers import MultiVectorEncoder

    theirs = MultiVectorEncoder(folders[name], device="cpu", local_files_only=True)
    queries, documents = zip(*PAIRS, strict=True)
    expected = theirs.similarity_pairwise(
        theirs.encode_query(list(queries)), theirs.encode_document(list(documents))
    ).numpy()
    ours = load_scorer(EncoderConfig(folders[name]))
    assert isinstance(ours, LateInteraction)
    np.testing.assert_allclose(ours.score(PAIRS), expected, atol=1e-4)


def test_each_text_is_run_once_and_documents_in_parts(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = LateInteraction.load(folders["pylate"])
    whole = scorer.score_with_counts(PAIRS)
    monkeypatch.setattr(late_interaction, "DOCUMENT_BYTES", 1)
    parts = scorer.score_with_counts(PAIRS)
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-5)
    assert whole.computed == whole.needed == parts.needed
    assert whole.computed == 3 * 12 + sum(
        min(20, 2 + 1 + n) for n in (3, 6, 3, 1, 6, 40)
    )  # of six distinct documents
    assert whole.tokens.tolist()[:2] == [12 + 6, 12 + 9]
    assert whole.dropped.max() == 40 - 17
    assert scorer.score_with_counts([]).scores.shape == (0,)


def test_a_pair_without_a_text_fails_alone(folders: dict[str, str]) -> None:
    scorer = LateInteraction.load(folders["pylate"])
    found = scorer.score_with_counts([("w1", "w2"), ("\u200b", "w2"), ("w1", " ")])
    assert sorted(found.failed) == [1, 2]
    assert np.isnan(found.scores).tolist() == [False, True, True]
    with pytest.raises(InputError, match="pair 1: text is empty"):
        scorer.score([("w1", "w2"), ("w1", "")])
    with pytest.raises(InputError, match="scoring .*: a model of token vectors has none"):
        LateInteraction.load(folders["pylate"], settings=ScoreSettings(label="x"))
