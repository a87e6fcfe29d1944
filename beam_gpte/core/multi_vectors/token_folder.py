"""Read the folder of a model of token vectors. Loads no torch.

Three layouts have the same parts, a Transformer and a projection of its token vectors:

- sentence-transformers 6: modules ``Transformer``, ``Dense``, ``MultiVectorMask``, ``Normalize``,
  and ``HierarchicalTokenPooling``; lengths and expansion are in sentence_bert_config.json;
- PyLate: modules ``Transformer`` and ``Dense``; everything else is in
  config_sentence_transformers.json;
- Stanford's ColBERT: the architecture ``HF_ColBERT``, whose checkpoint has ``linear.weight``;
  everything else is in artifact.metadata.

Where a file says nothing, it means what sentence-transformers 6.2 takes it to mean.
"""

import dataclasses
import string
from pathlib import Path
from typing import Any

from beam_gpte.core.encoder.layouts.model_kinds import MASK_MODULE, STANFORD, makes_token_vectors
from beam_gpte.core.encoder.layouts.text_settings import read_prompts, transformer_settings
from beam_gpte.core.encoder.model_folder import ModelFolder, Module
from beam_gpte.core.errors import InputError, shown
from beam_gpte.core.model_files import (
    check_transformer_files,
    damage,
    read_json,
    read_settings,
    setting,
)
from beam_gpte.core.model_references import check_inside
from beam_gpte.core.multi_vectors.token_pooling import TokenPooling

QUERY, DOCUMENT = ROUTES = ("query", "document")

_POOLING = "HierarchicalTokenPooling"
OURS = "MultiVectorEncoder"  # the model type of sentence-transformers
_MODULES = ("Transformer", "Dense", MASK_MODULE, "Normalize", _POOLING)
_TOKENS = "token_embeddings"  # what modules pass on
_LENGTH = 32  # of an expanded query whose length no file names
_SIMILARITIES = {"maxsim": False, "meanmaxsim": True}
# What PyLate's configuration has and that of sentence-transformers lacks.
_OF_PYLATE = (
    "query_length",
    "document_length",
    "do_query_expansion",
    "attend_to_expansion_tokens",
    "attend_to_mask_tokens",
    "query_prefix",
    "document_prefix",
    "skiplist_words",
)


@dataclasses.dataclass(frozen=True)
class Expansion:
    """Lengthen queries by mask tokens, whose vectors count.

    Attributes:
      length: tokens of a query that is shorter, special tokens included.
      fixed: whether longer queries are cut to it.
      attend: whether tokens attend to the added ones.
      token: that is added; None for the mask token, or the end of a text where there is none.
    """

    length: int
    fixed: bool = True
    attend: bool = False
    token: str | None = None


@dataclasses.dataclass(frozen=True)
class Side:
    """Hold what becomes of a text, as a query or as a document.

    Attributes:
      prefix: put before it.
      max_tokens: of it with prefix and special tokens; None for what the model takes.
      expansion: of queries; None for none.
      skipped: tokens without a vector, as the vocabulary writes them.
      only: ids of the tokens that have one; empty for all.
    """

    prefix: str = ""
    max_tokens: int | None = None
    expansion: Expansion | None = None
    skipped: tuple[str, ...] = ()
    only: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class TokenFolder:
    """Hold the settings found in the files of a model of token vectors.

    Attributes:
      model: the transformer and its tokenizer.
      dense: modules that project its vectors, in order; none where the checkpoint has the
        projection as ``linear.weight``.
      normalize: whether vectors then get length 1.
      sides: by route, ``query`` and ``document``.
      markers: prefixes that are tokens of the vocabulary, not text.
      pooling: of the model's own, by route.
      mean: whether scores are divided by the vectors of the query.
    """

    model: ModelFolder
    dense: tuple[Module, ...]
    normalize: bool
    sides: dict[str, Side]
    markers: tuple[str, ...]
    pooling: dict[str, TokenPooling]
    mean: bool

    @property
    def settings(self) -> dict[str, Any]:
        """Return what of them can change a vector, beside the files."""
        content = dataclasses.asdict(self)
        return {name: content[name] for name in ("normalize", "sides", "markers")}


def read_token_folder(root: Path) -> TokenFolder:
    """Read the layout of a model of token vectors, whose files but the weights are checked.

    Raises:
      InputError: it makes no token vectors, a module is not supported, or a file is missing or
        damaged; the message names the file.
    """
    if not makes_token_vectors(root):
        raise InputError(
            f"model folder {root}: it does not make a vector per token; embed its one vector per "
            "text with EmbedText"
        )
    if (root / "modules.json").exists():
        return _read_modules(root)
    return _read_stanford(root)


def _read_modules(root: Path) -> TokenFolder:
    path = root / "modules.json"
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise damage(path, "lists no modules")
    modules = [_module(path, entry) for entry in entries]
    kinds = [module.kind for module in modules]
    if kinds[0] != "Transformer" or kinds.count("Transformer") > 1:
        raise InputError(
            f"model folder {root}: modules {kinds} of {path.name} are not supported; "
            "use a model of one Transformer, first"
        )
    about = read_settings(root / "config_sentence_transformers.json", {})
    settings = transformer_settings(modules[0].folder)
    is_ours = about.get("model_type") == OURS or MASK_MODULE in kinds
    pylate = any(name in about for name in _OF_PYLATE) or not is_ours
    prefixes = {route: _text(root, about, f"{route}_prefix") for route in ROUTES}
    prompts, _ = read_prompts(root / "config_sentence_transformers.json")
    sides = _sides(root, about, settings, pylate)
    for route, prefix in prefixes.items():
        prompt = prompts.get(route, "")
        prompt = prompt if prefix is None else prefix + prompt.removeprefix(prefix)
        sides[route] = dataclasses.replace(sides[route], prefix=prompt)
    masks = [module for module in modules if module.kind == MASK_MODULE]
    if not is_ours:
        words = _words(root / "config_sentence_transformers.json", about)
        sides[DOCUMENT] = dataclasses.replace(
            sides[DOCUMENT], skipped=tuple(string.punctuation) if words is None else words
        )
    elif not masks and sides[QUERY].expansion is not None:
        raise damage(path, f"has no {MASK_MODULE}, but queries are expanded")
    for mask in masks:
        _mask(mask, sides)
    return TokenFolder(
        model=_model(root, modules[0].folder, settings, modules[1:]),
        dense=tuple(module for module in modules if module.kind == "Dense"),
        normalize=not is_ours or "Normalize" in kinds,
        sides=sides,
        markers=tuple(prefix for prefix in prefixes.values() if prefix),
        pooling=_pooling(modules),
        mean=_SIMILARITIES.get(str(about.get("similarity_fn_name")), False),
    )


def _read_stanford(root: Path) -> TokenFolder:
    named = read_settings(root / "config.json").get("architectures") or []
    if STANFORD not in named:
        raise InputError(
            f"model folder {root}: architecture {named[0]!r} is not supported, whose images have "
            "vectors; use a model of texts"
        )
    path = root / "artifact.metadata"
    about = read_settings(path, {})
    prefixes = {
        QUERY: (setting(path, about, "query_token_id", str) or "[unused0]") + " ",
        DOCUMENT: (setting(path, about, "doc_token_id", str) or "[unused1]") + " ",
    }
    attend = setting(path, about, "attend_to_mask_tokens", bool) is True
    length = _length(path, about, "query_maxlen") or _LENGTH
    skips = setting(path, about, "mask_punctuation", bool) is not False
    sides = {
        QUERY: Side(prefixes[QUERY], expansion=Expansion(length, attend=attend)),
        DOCUMENT: Side(
            prefixes[DOCUMENT],
            _length(path, about, "doc_maxlen"),
            skipped=tuple(string.punctuation) if skips else (),
        ),
    }
    model = _model(root, root, transformer_settings(root), [])
    return TokenFolder(model, (), True, sides, tuple(prefixes.values()), {}, False)


def _sides(
    root: Path, about: dict[str, Any], settings: dict[str, Any], pylate: bool
) -> dict[str, Side]:
    """Read lengths and expansion: of sentence_bert_config.json, else as PyLate writes them."""
    path, ours = root / "config_sentence_transformers.json", root / "sentence_bert_config.json"
    lengths = {
        route: _length(ours, settings, f"{route}_length") or _length(path, about, f"{route}_length")
        for route in ROUTES
    }
    given = about.get("query_expansion") if "query_expansion" in about else ()
    given = settings["query_expansion"] if settings.get("query_expansion") else given
    expansion: Expansion | None
    if given != ():
        expansion = _expansion(ours, given)
    elif not pylate or about.get("do_query_expansion") is False:
        expansion = None
    else:
        attend = about.get("attend_to_expansion_tokens", about.get("attend_to_mask_tokens"))
        expansion = Expansion(lengths[QUERY] or _LENGTH, attend=attend is True)
    return {
        QUERY: Side(max_tokens=lengths[QUERY], expansion=expansion),
        DOCUMENT: Side(max_tokens=lengths[DOCUMENT]),
    }


def _expansion(path: Path, given: Any) -> Expansion | None:
    if given is None:
        return None
    if not isinstance(given, dict) or given.get("strategy") not in ("fixed", "min"):
        raise damage(path, f"has query_expansion {shown(given)}, which is not known here")
    length = _length(path, given, "length")
    if length is None:
        raise damage(path, "has a query_expansion without length")
    return Expansion(
        length,
        given["strategy"] == "fixed",
        setting(path, given, "attend", bool) is True,
        setting(path, given, "token", str),
    )


def _module(listing: Path, entry: Any) -> Module:
    if not isinstance(entry, dict) or not {"path", "type"} <= entry.keys():
        raise damage(listing, f"has an entry without path or type: {entry!r}")
    check_inside(listing, entry["path"])
    kind = str(entry["type"])
    known = kind.rsplit(".", 1)[-1]
    if known not in _MODULES or not kind.startswith(("sentence_transformers.", "pylate.")):
        raise InputError(
            f"model folder {listing.parent}: module {kind!r} of {listing.name} is not supported "
            f"for token vectors; use a model of {', '.join(_MODULES)}"
        )
    folder = listing.parent / entry["path"]
    if known == "Transformer":
        return Module(known, {}, folder)
    default: dict[str, Any] | None = {} if known == "Normalize" else None
    module = Module(known, read_settings(folder / "config.json", default), folder)
    for name in ("module_input_name", "module_output_name"):
        if known in ("Dense", "Normalize") and (module.setting(name, str) or _TOKENS) != _TOKENS:
            raise damage(
                folder / "config.json",
                f"has {name} {module.config[name]!r}, not {_TOKENS}",
                "use a model of token vectors",
            )
    return module


def _mask(module: Module, sides: dict[str, Side]) -> None:
    """Add what a MultiVectorMask leaves out."""
    path = module.folder / "config.json"
    words = _words(path, module.config) or ()
    tasks = module.config.get("skiplist_tasks") or [DOCUMENT]
    only = module.config.get("keep_only_token_ids") or []
    if not isinstance(only, list) or not all(type(one) is int for one in only):
        raise damage(path, f"has keep_only_token_ids {shown(only)}, not whole numbers")
    for route in ROUTES:
        if route in tasks:
            sides[route] = dataclasses.replace(sides[route], skipped=words)
    sides[DOCUMENT] = dataclasses.replace(sides[DOCUMENT], only=tuple(only))


def _pooling(modules: list[Module]) -> dict[str, TokenPooling]:
    found: dict[str, TokenPooling] = {}
    for module in modules:
        if module.kind == _POOLING:
            given = module.config
            pooling = TokenPooling(
                given.get("pool_factor", 1.0),
                given.get("num_protected_tokens", 1),
                module.setting("normalize_embeddings", bool) is True,
            )
            tasks = given.get("tasks") or [DOCUMENT]
            found |= {route: pooling for route in ROUTES if route in tasks}
    return found


def _model(
    root: Path, transformer: Path, settings: dict[str, Any], modules: list[Module]
) -> ModelFolder:
    path = transformer / "sentence_bert_config.json"
    if "message" in (settings.get("modality_config") or {}):
        raise damage(path, "puts texts into a chat template", "use a model of plain texts")
    task = settings.get("transformer_task") or "feature-extraction"
    if task != "feature-extraction":
        raise damage(path, f"has transformer_task {shown(task)}", "use a model of texts")
    if settings.get("do_lower_case") is True:
        raise damage(path, "has do_lower_case true", "lower-case in the tokenizer's normalizer")
    check_transformer_files(transformer)
    return ModelFolder(
        root=root,
        transformer=transformer,
        tokenizer=transformer,
        pooling=(),
        pool_prompt=True,
        modules=tuple(modules),
        prompts={},
        default_prompt_name=None,
        max_tokens=settings.get("max_seq_length"),
        lower_case=False,
        has_chat_template=False,
    )


def _text(root: Path, about: dict[str, Any], name: str) -> str | None:
    found = setting(root / "config_sentence_transformers.json", about, name, str)
    return (found or "") if name in about else None


def _words(path: Path, settings: dict[str, Any]) -> tuple[str, ...] | None:
    words = settings.get("skiplist_words")
    if words is None:
        return None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise damage(path, f"has skiplist_words {shown(words)}, not a list of texts")
    return tuple(words)


def _length(path: Path, settings: dict[str, Any], name: str) -> int | None:
    length = setting(path, settings, name, int)
    if length is not None and length < 1:
        raise damage(path, f"has {name} {length}", "give a positive whole number")
    return length
