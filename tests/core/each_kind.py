"""A tiny random model of each kind, how it is loaded, and what it gives of the same inputs."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beam_gpte import EncoderConfig, ImageEncoder, ScoreSettings, SparseEncoder, TextEncoder
from beam_gpte.core.multi_vectors.token_encoder import TokenEncoder
from beam_gpte.core.scorers.load_scorer import load_scorer
from beam_gpte.core.static.load_encoder import load_encoder
from tests.core.encoder import test_chat_templates, whole_model
from tests.core.encoder.adapters import tiny_adapters
from tests.core.encoder.own_code import latent_model
from tests.core.encoder.routes import routed_models
from tests.core.images import tiny_towers
from tests.core.multi_vectors import tiny_models as tiny_token_models
from tests.core.scorers import test_causal_reranker, tiny_estimators, tiny_rerankers
from tests.core.sparse import models as sparse_models
from tests.core.static import models as static_models
from tests.embedding import test_rerank

TEXTS = [
    *whole_model.TEXTS,
    "cat",
    "w1 w2 w3 w4 w5 w6 w7 w8 w9",
    "the cat sat on the mat and two w1 w2",
    *(f"w{i} on w{i + 1}, the w{i + 2}" for i in range(9)),
]


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of model.

    Attributes:
      make: writes a model below a folder, which is there and empty; returns the model's folder.
      load: with a folder and settings of the configuration.
      run: a loaded model and inputs to an array of each.
      inputs: for it.
      body: the folder of the files that the damages of `each_damage` are done to, below that of
        the model.
      settings: of the configuration, such as a route.
    """

    make: Callable[[Path], str | Path]
    load: Callable[..., Any]
    run: Callable[[Any, list[Any]], list[np.ndarray]]
    inputs: Sequence[Any] = tuple(TEXTS)
    body: str = ""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def open(self, folder: str | Path, **settings: Any) -> Any:
        """Load a model from its folder, on a CPU."""
        return self.load(Path(folder), **{"device": "cpu", **self.settings, **settings})


def encode(model: Any, inputs: list[Any]) -> list[np.ndarray]:
    return list(model.encode(inputs))


def score(model: Any, inputs: list[Any]) -> list[np.ndarray]:
    return [np.array([one]) for one in model.score(inputs)]


def terms(model: SparseEncoder, inputs: list[Any]) -> list[np.ndarray]:
    return list(model.encode(inputs).to_dense(model.dim))


def queries_and_documents(model: TokenEncoder, inputs: list[Any]) -> list[np.ndarray]:
    both = (model.encode(inputs, route) for route in ("query", "document"))
    return [np.concatenate(one).ravel() for one in zip(*both, strict=True)]


def dense(folder: Path, **settings: Any) -> Any:
    return load_encoder(EncoderConfig(str(folder), **settings))


def sparse(folder: Path, **settings: Any) -> Any:
    return SparseEncoder.load(EncoderConfig(str(folder), **settings))


def tokens(folder: Path, **settings: Any) -> Any:
    return TokenEncoder.load(EncoderConfig(str(folder), **settings))


def image(folder: Path, **settings: Any) -> Any:
    return ImageEncoder.load(EncoderConfig(str(folder), **settings))


def tower(folder: Path, **settings: Any) -> Any:
    return TextEncoder.load(EncoderConfig(str(folder), **settings))


def adapted(folder: Path, **settings: Any) -> Any:
    config = EncoderConfig(str(folder / "whole"), adapter=str(folder / "lora"), **settings)
    return TextEncoder.load(config)


def scorer(**scoring: Any) -> Callable[..., Any]:
    def load(folder: Path, **settings: Any) -> Any:
        config = EncoderConfig(str(folder), **settings)
        return load_scorer(config, settings=ScoreSettings(**scoring))

    return load


def whole(place: Path) -> Path:
    """Write the BERT of `whole_model`, whose files others take over."""
    if not (place / "whole").exists():
        whole_model.make(place / "whole")
    return place / "whole"


def with_adapter(place: Path) -> Path:
    whole(place)
    tiny_adapters.make(place / "lora")
    return place


def sentence_clip(place: Path) -> Path:
    """Write a CLIP as sentence-transformers 5.4 does, in a folder of its own."""
    from tests.core.damage import write

    tiny_towers.make_clip(place / "model" / "0_CLIPModel")
    module = {"idx": 0, "name": "0", "path": "0_CLIPModel"}
    module["type"] = "sentence_transformers.models.CLIPModel"
    write(place / "model" / "modules.json", [module])
    return place / "model"


def static_embedding(place: Path) -> str:
    words = static_models.bert()
    return static_models.static_embedding(
        place / "model", words, static_models.token_vectors(words)
    )


def model2vec(place: Path) -> str:
    words = static_models.bert()
    vectors = {"embeddings": static_models.token_vectors(words)}
    return static_models.model2vec(place / "model", words, vectors)


def causal(place: Path) -> Path:
    """Write a causal reranker as sentence-transformers does."""
    from sentence_transformers import CrossEncoder as Peer

    Peer(tiny_rerankers.save(place / "plain"), device="cpu").save_pretrained(str(place / "saved"))
    return place / "saved"


def copied(make: Callable[[Path], object]) -> Callable[[Path], Path]:
    """Make a model in a folder that its maker wants to be there."""

    def make_there(place: Path) -> Path:
        (place / "model").mkdir()
        return Path(str(make(place / "model")))

    return make_there


PAIRS = test_rerank.pairs()
KINDS: dict[str, Kind] = {
    "encoder": Kind(whole, dense, encode),
    "chat template": Kind(
        lambda place: test_chat_templates.save(place, test_chat_templates.FLAT),
        dense,
        encode,
        test_chat_templates.texts(),
    ),
    "route": Kind(
        lambda place: routed_models.shared(place / "model", whole(place)),
        dense,
        encode,
        settings={"route": "heavy"},
    ),
    "own code": Kind(
        lambda place: latent_model.make(place / "model", whole(place)),
        dense,
        encode,
        settings={"trust_remote_code": True},
    ),
    "adapter": Kind(with_adapter, adapted, encode, body="lora"),
    "model2vec": Kind(model2vec, dense, encode),
    "StaticEmbedding": Kind(static_embedding, dense, encode, body="0_StaticEmbedding"),
    "static route": Kind(
        lambda place: routed_models.static_queries(place / "model", whole(place)),
        dense,
        encode,
        body="query_0_StaticEmbedding",
        settings={"route": "query"},
    ),
    "SPLADE": Kind(
        lambda place: sparse_models.splade(place / "model"), sparse, terms, sparse_models.texts()
    ),
    "SPLADE, sum of log1p_relu": Kind(
        lambda place: sparse_models.splade(place / "model", "bert", "sum", "log1p_relu"),
        sparse,
        terms,
        sparse_models.texts(),
    ),
    "SPLADE, plain": Kind(
        lambda place: sparse_models.plain(place / "model", "distilbert"),
        sparse,
        terms,
        sparse_models.texts(),
    ),
    "SPLADE, padded": Kind(
        lambda place: sparse_models.splade(place / "model", "mpnet"),
        sparse,
        terms,
        sparse_models.texts(),
    ),
    "sparse queries": Kind(
        lambda place: sparse_models.inference_free(place / "model"),
        sparse,
        terms,
        sparse_models.texts(),
        body="query_0_SparseStaticEmbedding",
        settings={"route": "query"},
    ),
    "autoencoder": Kind(
        lambda place: sparse_models.autoencoder(place / "model"),
        sparse,
        terms,
        sparse_models.texts(),
    ),
    "CLIP, texts": Kind(
        lambda place: tiny_towers.make_clip(place / "model"), tower, encode, tiny_towers.TEXTS
    ),
    "SigLIP, texts": Kind(
        lambda place: tiny_towers.make_siglip(place / "model"), tower, encode, tiny_towers.TEXTS
    ),
    "CLIP, images": Kind(
        lambda place: tiny_towers.make_clip(place / "model"),
        image,
        encode,
        [tiny_towers.encoded(tiny_towers.draw(seed)) for seed in range(6)],
    ),
    "SigLIP, images": Kind(
        lambda place: tiny_towers.make_siglip(place / "model"),
        image,
        encode,
        [tiny_towers.encoded(tiny_towers.draw(seed)) for seed in range(6)],
    ),
    "CLIP, as sentence-transformers saves it": Kind(
        sentence_clip,
        image,
        encode,
        [tiny_towers.encoded(tiny_towers.draw(seed)) for seed in range(6)],
        body="0_CLIPModel",
    ),
    "token vectors, PyLate": Kind(
        copied(tiny_token_models.pylate), tokens, queries_and_documents, tiny_token_models.TEXTS
    ),
    "token vectors, Stanford's ColBERT": Kind(
        copied(tiny_token_models.stanford), tokens, queries_and_documents, tiny_token_models.TEXTS
    ),
    "token vectors, as sentence-transformers saves them": Kind(
        copied(tiny_token_models.native), tokens, queries_and_documents, tiny_token_models.TEXTS
    ),
    "token vectors, as a reranker": Kind(copied(tiny_token_models.pylate), scorer(), score, PAIRS),
    "cross-encoder": Kind(
        lambda place: test_rerank.save(place / "model", "bert"), scorer(), score, PAIRS
    ),
    "classifier": Kind(
        lambda place: test_rerank.save(place / "model", "bert", num_labels=3),
        scorer(label="LABEL_1"),
        score,
        PAIRS,
    ),
    "causal reranker": Kind(causal, scorer(), score, test_causal_reranker.pairs()),
    "causal reranker, plain": Kind(
        lambda place: tiny_rerankers.save(place / "model", chat=None),
        scorer(template=tiny_rerankers.TEMPLATE),
        score,
        test_causal_reranker.pairs(),
    ),
    "quality estimator": Kind(
        lambda place: tiny_estimators.save(place / "model"), scorer(), score, PAIRS
    ),
}


class Made:
    """Make each model once, and keep what it gives when it is whole."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._folders: dict[str, Path] = {}
        self._found: dict[str, list[np.ndarray]] = {}

    def folder(self, name: str) -> Path:
        """Return the folder of a model, which is not to be changed."""
        if name not in self._folders:
            place = self._place / f"{len(self._folders)}"
            place.mkdir()
            self._folders[name] = Path(KINDS[name].make(place))
        return self._folders[name]

    def copy(self, name: str, place: Path) -> Path:
        """Copy a model into a folder, to change it."""
        return Path(shutil.copytree(self.folder(name), place))

    def found(self, name: str) -> list[np.ndarray]:
        """Return what the whole model gives, in fp32."""
        if name not in self._found:
            kind = KINDS[name]
            self._found[name] = kind.run(kind.open(self.folder(name)), list(kind.inputs))
        return self._found[name]
