"""Write small random models with routes, as sentence-transformers saves them."""

from pathlib import Path
from typing import Any

import torch

PROMPTS = {"query": "the ", "document": "two cats "}
DIM = 32


def modules(folder: Path, seed: int = 0) -> list[Any]:
    """Make a Transformer of the model in a folder, pooled by the mean without the prompt."""
    from sentence_transformers.models import Pooling, Transformer

    torch.manual_seed(seed)
    return [Transformer(str(folder)), Pooling(DIM, pooling_mode="mean", include_prompt=False)]


def static(folder: Path, seed: int = 1) -> Any:
    """Make a static model with the tokenizer of a folder."""
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer

    torch.manual_seed(seed)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    weights = torch.randn(tokenizer.get_vocab_size(), DIM).numpy()
    return StaticEmbedding(tokenizer, embedding_weights=weights)


def dense(seed: int) -> Any:
    from sentence_transformers.models import Dense

    torch.manual_seed(seed)
    return Dense(DIM, 12, activation_function=torch.nn.Tanh())


def save(folder: Path, modules: list[Any], prompts: dict[str, str] = PROMPTS) -> str:
    """Save modules as a model, and return its folder."""
    from sentence_transformers import SentenceTransformer

    made = SentenceTransformer(modules=modules, prompts=prompts, device="cpu")
    made.save_pretrained(str(folder))
    return str(folder)


def static_queries(folder: Path, whole: Path) -> str:
    """Save a model of a static route for queries, and a Transformer for documents."""
    from sentence_transformers.models import Normalize, Router

    router = Router.for_query_document([static(whole)], modules(whole))
    return save(folder, [router, Normalize()])


def shared(folder: Path, whole: Path, **settings: Any) -> str:
    """Save a model of two routes with one Transformer, and a Dense of each."""
    from sentence_transformers.models import Router

    first = modules(whole)
    routes = {"light": [*first, dense(1)], "heavy": [*first, dense(2)]}
    return save(folder, [Router(routes, **settings)])


def after_pooling(folder: Path, whole: Path) -> str:
    """Save a model whose routes follow its Pooling, and whose files are those of Asym."""
    from sentence_transformers.models import Router

    save(folder, [*modules(whole), Router({"query": [dense(1)], "doc": [dense(2)]})], {})
    listing = folder / "modules.json"
    text = listing.read_text()
    listing.write_text(text.replace(".base.modules.router.Router", ".models.Asym"))
    (place,) = folder.glob("*_Router")
    (place / "router_config.json").rename(place / "config.json")
    return str(folder)
