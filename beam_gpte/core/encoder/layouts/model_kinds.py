"""Find out which kind a model is of by what its folder lists. Loads no torch.

One vector per text is what a Transformer makes with a Pooling after it, or a StaticEmbedding, or
model2vec; weights of terms are for `core.sparse`, a vector per token for `core.multi_vectors`.
"""

from pathlib import Path
from typing import Any

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.routes.router import module_types, routed_entries
from beam_gpte.core.errors import InputError
from beam_gpte.core.model_files import read_json, read_settings
from beam_gpte.core.model_references import check_regular_files

STATIC = "StaticEmbedding"  # the first module of a static model; see `core.static`
# Modules of a sparse model; see `core.sparse`. A Router has modules in routes.
SPARSE = ("SpladePooling", "SparseAutoEncoder", "SparseStaticEmbedding", "MLMTransformer")
MODEL2VEC = "model2vec"  # the model type of one that has no list of modules

# Models of a vector per token, see `core.multi_vectors`: their model types in
# config_sentence_transformers.json, and the architecture of those that Stanford's code saves.
_TOKEN_TYPES = ("ColBERT", "MultiVectorEncoder")
STANFORD = "HF_ColBERT"
MASK_MODULE = "MultiVectorMask"


def check_makes_one_vector(root: Path, config: EncoderConfig) -> None:
    """Refuse a model that does not make one vector of a text by a Transformer.

    Raises:
      InputError: it is of another kind; names what takes it.
    """
    if is_static(root, config):
        raise InputError(
            f"model folder {root}: a static model, which has vectors of tokens and no Transformer; "
            "load it with StaticEncoder"
        )
    if is_sparse(root):
        raise InputError(
            f"model folder {root}: a sparse model, which gives weights of terms; use EmbedSparse"
        )
    if makes_token_vectors(root):
        raise InputError(
            f"model folder {root}: a model of token vectors, several per text; embed with "
            "EmbedTokens, or score pairs with Rerank"
        )


def is_static(root: Path, config: EncoderConfig) -> bool:
    """Decide whether a folder holds a static model: a StaticEmbedding, or one of model2vec.

    Args:
      root: the model's folder.
      config: names the route of a model that has some; another may be static.

    Raises:
      InputError: its list of modules cannot be read, or it has no such route.
    """
    check_regular_files(root)
    if (root / "modules.json").exists():
        modules = read_json(root / "modules.json")
        if not isinstance(modules, list) or not modules:
            return False  # which has a message of its own
        (_, first), *_ = routed_entries(root / "modules.json", modules, config)[0]
        return isinstance(first, dict) and module_kind(first.get("type")) == STATIC
    path = root / "config.json"
    return path.exists() and read_settings(path).get("model_type") == MODEL2VEC


def is_sparse(root: Path) -> bool:
    """Decide whether a folder lists a module of a sparse model, also in a route of a Router.

    Raises:
      InputError: its list of modules, or that of a Router, cannot be read.
    """
    check_regular_files(root)
    if not (root / "modules.json").exists():
        return False
    modules = read_json(root / "modules.json")
    types = module_types(root / "modules.json", modules if isinstance(modules, list) else [])
    return not set(map(module_kind, types)).isdisjoint(SPARSE)


def module_kind(name: Any) -> str:
    """Return the class of a module of sentence-transformers; empty for others."""
    known = str(name).startswith("sentence_transformers.")
    return str(name).rsplit(".", 1)[-1] if known else ""


def makes_token_vectors(root: Path) -> bool:
    """Decide whether a folder holds a model that makes a vector per token, as ColBERT does.

    Raises:
      InputError: its files cannot be read.
    """
    check_regular_files(root)
    about = read_settings(root / "config_sentence_transformers.json", {})
    if about.get("model_type") in _TOKEN_TYPES:
        return True
    if (root / "modules.json").exists():
        listed = read_json(root / "modules.json")
        entries = listed if isinstance(listed, list) else []
        kinds = [str(entry.get("type")) for entry in entries if isinstance(entry, dict)]
        return any(
            kind.startswith("pylate.") or kind.rsplit(".", 1)[-1] == MASK_MODULE for kind in kinds
        )
    named = read_settings(root / "config.json", {}).get("architectures")
    return any(
        one == STANFORD or str(one).endswith("ForRetrieval")
        for one in (named if isinstance(named, list) else [])
    )
