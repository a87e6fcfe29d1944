"""Read the layout of a sparse model, as sentence-transformers' SparseEncoder saves it.

    Transformer of a masked language model, SpladePooling     SPLADE
    SparseStaticEmbedding                                      a weight for each token of a text
    Transformer, Pooling, ..., SparseAutoEncoder               CSR: parts of a dense vector
    Router of such lists, one per route                        queries without inference
    a masked language model without modules.json               SPLADE of maximum and relu

Loads no torch.
"""

import dataclasses
from pathlib import Path

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.layouts.model_kinds import SPARSE, is_static
from beam_gpte.core.encoder.layouts.text_settings import read_prompts, transformer_settings
from beam_gpte.core.encoder.model_folder import (
    ModelFolder,
    Module,
    check_weights_in,
    named_pooling_modes,
)
from beam_gpte.core.encoder.routes.router import check_no_route
from beam_gpte.core.encoder.routes.task_prompts import warn_without_prompt
from beam_gpte.core.errors import InputError
from beam_gpte.core.model_files import (
    check_tokenizer_files,
    check_transformer_files,
    check_weight_files,
    damage,
    hash_files,
    read_settings,
    setting,
)
from beam_gpte.core.model_references import check_regular_files
from beam_gpte.core.sparse.sparse_modules import Entry, listed_modules
from beam_gpte.core.sparse.splade_head import ACTIVATIONS, POOLINGS, POSITIVE

TRANSFORMERS = ("Transformer", "MLMTransformer")
POOLING, STATIC = "SpladePooling", "SparseStaticEmbedding"
AUTOENCODER = "SparseAutoEncoder"
DENSE = ("Dense", "LayerNorm", "Normalize")  # may be between a Pooling and an autoencoder
MASKED = "ForMaskedLM"


@dataclasses.dataclass(frozen=True)
class SparseFolder:
    """Hold what the files of a sparse model say about one route.

    Attributes:
      folder: of tokenizer, weights and prompts.
      pooling: one of `POOLINGS`; None for a static model, or an autoencoder.
      activation: one of `ACTIVATIONS`; `POSITIVE` of an autoencoder.
      autoencoder: the module of that kind; None for none.
      max_active: maximum number of terms of a text where none is configured; None for all.
    """

    folder: ModelFolder
    pooling: str | None
    activation: str = ACTIVATIONS[0]
    max_active: int | None = None
    autoencoder: Module | None = None

    @property
    def is_static(self) -> bool:
        """Return whether terms are the tokens of a text, without a language model."""
        return self.pooling is None and self.autoencoder is None

    def hash(self, config: EncoderConfig) -> str:
        """Hash all that its files say about weights, wherever the folder is."""
        if self.autoencoder is not None:
            return self.folder.hash(config)
        place = self.folder.transformer
        files = hash_files(place, [place], config.trust_remote_code)
        lower = "lower case" if self.folder.lower_case else ""
        return "; ".join([files, self.pooling or STATIC, self.activation, lower])


def read_sparse_folder(root: Path, config: EncoderConfig) -> SparseFolder:
    """Read the layout of one route of a sparse model, whose files but the weights are checked.

    Args:
      root: the folder of the model.
      config: names the route of a model that has some.

    Raises:
      InputError: the model is not a sparse one, has modules that are not supported, or a file is
        missing or damaged; the message names the file.
    """
    check_regular_files(root)
    sparse = _read(root, config)
    warn_without_prompt(config, sparse.folder.prompts, sparse.folder.default_prompt_name)
    limit = _max_active(root)
    return sparse if limit is None else dataclasses.replace(sparse, max_active=limit)


def _read(root: Path, config: EncoderConfig) -> SparseFolder:
    prompts = read_prompts(root / "config_sentence_transformers.json")
    if not (root / "modules.json").exists():
        check_no_route(config)
        return _plain(root, prompts)
    modules, route = listed_modules(root, config)
    kinds = [module.kind for module in modules]
    if kinds == [STATIC]:
        return _routed(_static(root, modules[0].folder, prompts), route)
    if len(kinds) == 2 and kinds[0] in TRANSFORMERS and kinds[1] == POOLING:
        return _routed(_splade(root, modules, prompts), route)
    dense = kinds[:1] == ["Transformer"] and kinds[1:2] == ["Pooling"]
    if dense and kinds[-1] == AUTOENCODER and set(kinds[2:-1]) <= set(DENSE):
        return _routed(_autoencoder(root, modules, prompts), route)
    raise _unsupported(root, kinds)


def _routed(sparse: SparseFolder, route: str) -> SparseFolder:
    return dataclasses.replace(sparse, folder=dataclasses.replace(sparse.folder, route=route))


def check_sparse_weights(sparse: SparseFolder, config: EncoderConfig) -> None:
    """Refuse a folder that has no safetensors, or damaged ones.

    Raises:
      InputError: it does.
    """
    check_weights_in(sparse.folder.transformer, config)
    check_weight_files(sparse.folder.transformer)


def _unsupported(root: Path, kinds: list[str]) -> InputError:
    repair = "EmbedText" if not set(kinds) & set(SPARSE) else "another model"
    return InputError(
        f"model folder {root}: modules {kinds} are not those of a sparse model that is supported: "
        "a Transformer and a SpladePooling, a Transformer, a Pooling and a SparseAutoEncoder, or a "
        f"SparseStaticEmbedding; use {repair}"
    )


def _max_active(root: Path) -> int | None:
    path = root / "config_sentence_transformers.json"
    limit = setting(path, read_settings(path, {}), "max_active_dims", int)
    if limit is not None and limit < 1:
        raise damage(path, f"has max_active_dims {limit}", "give a positive whole number")
    return limit


def _plain(root: Path, prompts: tuple[dict[str, str], str | None]) -> SparseFolder:
    """Read a masked language model without a list of modules: SPLADE of maximum and relu."""
    if is_static(root, EncoderConfig(str(root))):
        raise InputError(f"model folder {root}: a static model of dense vectors; use EmbedText")
    check_transformer_files(root)
    path = root / "config.json"
    named = read_settings(path).get("architectures")
    names = named if isinstance(named, list) else []
    if not any(str(name).endswith(MASKED) for name in names):
        raise InputError(
            f"model folder {root}: config.json names {', '.join(map(str, names)) or 'none'} as "
            f"architecture, not a masked language model ({MASKED}); use EmbedText for dense vectors"
        )
    return SparseFolder(_language_model(root, root, prompts), POOLINGS[0])


def _splade(
    root: Path,
    modules: list[Entry],
    prompts: tuple[dict[str, str], str | None],
) -> SparseFolder:
    place, pooling = modules[0].folder, modules[1].folder / "config.json"
    check_transformer_files(place)
    if modules[0].kind == "Transformer":
        path = next(iter(sorted(place.glob("sentence_*_config.json"))), None)
        task = setting(path, read_settings(path), "transformer_task", str) if path else None
        if task != "fill-mask":
            raise damage(
                path or place / "sentence_bert_config.json",
                f"has transformer_task {task!r}, not 'fill-mask'",
                "get a model whose SpladePooling follows a masked language model",
            )
    settings = read_settings(pooling)
    strategy = setting(pooling, settings, "pooling_strategy", str) or POOLINGS[0]
    activation = setting(pooling, settings, "activation_function", str) or ACTIVATIONS[0]
    for name, value, known in (
        ("pooling_strategy", strategy, POOLINGS),
        ("activation_function", activation, ACTIVATIONS),
    ):
        if value not in known:
            raise damage(pooling, f"has {name} {value!r}, not one of {', '.join(known)}")
    return SparseFolder(_language_model(root, place, prompts), strategy, activation)


def _autoencoder(
    root: Path,
    modules: list[Entry],
    prompts: tuple[dict[str, str], str | None],
) -> SparseFolder:
    check_transformer_files(modules[0].folder)
    read = [
        Module(one.kind, read_settings(one.folder / "config.json", {}), one.folder)
        for one in modules[1:]
    ]
    limit = read[-1].setting("k", int)
    if limit is None or limit < 1:
        raise damage(read[-1].folder / "config.json", f"has k {limit}")
    folder = dataclasses.replace(
        _language_model(root, modules[0].folder, prompts),
        pooling=named_pooling_modes(read[0]),
        pool_prompt=read[0].setting("include_prompt", bool) is not False,
        modules=tuple(read[1:]),
    )
    return SparseFolder(folder, None, POSITIVE, limit, read[-1])


def _language_model(
    root: Path, place: Path, prompts: tuple[dict[str, str], str | None]
) -> ModelFolder:
    settings = transformer_settings(place)
    if "message" in (settings.get("modality_config") or {}):
        raise InputError(
            f"model folder {root}: a sparse model with a chat template, which is not supported; "
            "use another model"
        )
    for name in ("query_length", "document_length", "query_expansion"):
        if settings.get(name) is not None:
            path = sorted(place.glob("sentence_*_config.json"))[0]
            raise damage(path, f"sets {name}, which is not supported here", "remove it")
    lower = settings.get("do_lower_case") is True
    return _model_folder(root, place, prompts, settings.get("max_seq_length"), lower)


def _static(root: Path, place: Path, prompts: tuple[dict[str, str], str | None]) -> SparseFolder:
    path = place / "config.json"
    settings = read_settings(path, {})
    if "path" in settings:
        raise damage(
            path,
            f"names a file of weights, {settings['path']!r}, which is not supported",
            "load and save the model with sentence-transformers, which writes safetensors",
        )
    check_tokenizer_files(place)
    return SparseFolder(_model_folder(root, place, prompts, None, False), None)


def _model_folder(
    root: Path,
    place: Path,
    prompts: tuple[dict[str, str], str | None],
    max_tokens: int | None,
    lower_case: bool,
) -> ModelFolder:
    return ModelFolder(
        root=root,
        transformer=place,
        tokenizer=place,
        pooling=(),
        pool_prompt=True,
        modules=(),
        prompts=prompts[0],
        default_prompt_name=prompts[1],
        max_tokens=max_tokens,
        lower_case=lower_case,
        has_chat_template=False,
    )
