"""Share tokenizers, which take a moment to train, and a model of each package."""

from pathlib import Path

import pytest
import tokenizers

from tests.core.encoder.conftest import whole as whole
from tests.core.static import models


@pytest.fixture(scope="session")
def bert() -> tokenizers.Tokenizer:
    return models.bert()


@pytest.fixture(scope="session")
def llama() -> tokenizers.Tokenizer:
    return models.llama()


@pytest.fixture(scope="session")
def two_packages(
    tmp_path_factory: pytest.TempPathFactory, bert: tokenizers.Tokenizer
) -> dict[str, Path]:
    """A folder as each package writes it, with the same vectors."""
    place, vectors = tmp_path_factory.mktemp("static"), models.token_vectors(bert)
    models.model2vec(place / "model2vec", bert, {"embeddings": vectors})
    models.static_embedding(place / "StaticEmbedding", bert, vectors)
    return {name: place / name for name in ("model2vec", "StaticEmbedding")}
