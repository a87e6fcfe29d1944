"""Check the files of a model, and hash them: whether all are there, whole, and what they claim.

A model of which a part is missing often loads, with another part in its place: an empty vocabulary,
mean pooling, the weights before tuning. Every check reads a few kilobytes.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from beam_gpte.core.errors import InputError, shown
from beam_gpte.core.model_references import check_references, check_regular_files, check_shard

# Files that settings of the tokenizer and the model come from; small, read whole.
_SETTINGS = (
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "vocab.bpe", "dict.txt")
_SUFFIXES = (".safetensors", ".model", ".spm", ".tiktoken", ".codes")

# Keys of `_SETTINGS` that change no vector: where a model came from. Its limit enters a fingerprint
# as it is used.
_INFORMATION = (
    "_commit_hash",
    "_name_or_path",
    "model_max_length",
    "name_or_path",
    "special_tokens_map_file",
    "tokenizer_file",
    "transformers_version",
)

_INDEX = "model.safetensors.index.json"
_POINTER = b"version https://git-lfs.github.com/spec"
_POINTER_BYTES = 1024  # more than any pointer has
_MIN_LAYERS = 1000  # more than any model has
_REPAIR = "get a complete model"
_JSON_NAMES = {bool: "true or false", dict: "an object", int: "a whole number", str: "a text"}

T = TypeVar("T")


def damage(path: Path, problem: str, repair: str = _REPAIR) -> InputError:
    """Make the error for a file of a model."""
    return InputError(f"model folder {path.parent}: {path.name} {problem}; {repair}")


def read_json(path: Path, default: Any = None) -> Any:
    """Read a JSON file of a model; `default` where there is no such file.

    Raises:
      InputError: the file is missing and there is no default, or it is not JSON.
    """
    if not path.exists():
        if default is None:
            raise damage(path, "is missing")
        return default
    check_file(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of JSON, or of UTF-8; nested too deep
        raise damage(path, f"is not whole JSON ({error})") from error


def read_settings(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read a JSON file that holds an object; see `read_json`."""
    settings = read_json(path, default)
    if not isinstance(settings, dict):
        raise damage(path, f"holds a {type(settings).__name__}, not an object of settings")
    return settings


def setting(path: Path, settings: dict[str, Any], name: str, kind: type[T]) -> T | None:
    """Return a setting, None where there is none.

    Raises:
      InputError: it is of another type; JSON's true is not a number.
    """
    value = settings.get(name)
    if value is not None and type(value) is not kind:
        raise damage(path, f"has {name} {shown(value)}, not {_JSON_NAMES[kind]}")
    return value


def check_file(path: Path) -> None:
    """Refuse a file that is empty, or a git-lfs pointer in its place."""
    size = path.stat().st_size
    if size == 0:
        raise damage(path, "is empty")
    if size <= _POINTER_BYTES and path.read_bytes().startswith(_POINTER):
        raise damage(path, "is a git-lfs pointer in place of the file", "run git lfs pull")


def check_transformer_files(folder: Path) -> None:
    """Refuse a folder whose settings or vocabulary are damaged, or lead elsewhere.

    Raises:
      InputError: names the file.
    """
    read_settings(folder / "config.json")
    for path in sorted(folder.glob("adapter_*")):
        raise damage(
            path,
            "is an adapter beside the weights of a model",
            "move its files to a folder of their own, and name that by adapter",
        )
    check_tokenizer_files(folder)


def check_tokenizer_files(folder: Path) -> None:
    """Refuse a folder whose vocabulary is damaged or missing, or whose settings lead elsewhere.

    Raises:
      InputError: names the file.
    """
    check_regular_files(folder)
    for path in _affecting_files(folder):
        check_file(path)
    for name in _SETTINGS:
        check_references(folder / name, read_settings(folder / name, {}))
    _check_vocabulary(folder)


def has_vocabulary(folder: Path) -> bool:
    """Check whether a folder has a file of a tokenizer's words."""
    return any(
        path.name in _VOCABULARIES or path.suffix in _SUFFIXES[1:] for path in folder.glob("*")
    )


def _check_vocabulary(folder: Path) -> None:
    """Refuse a folder without a vocabulary: transformers makes an empty tokenizer of it."""
    names = {path.name for path in _affecting_files(folder)}
    if names & {"tokenizer.json", "vocab.txt", "vocab.bpe", "dict.txt"}:
        return
    if any(name.endswith(_SUFFIXES[1:]) for name in names):
        return
    if "vocab.json" in names and "merges.txt" not in names:
        raise damage(folder / "merges.txt", "is missing, which vocab.json needs")
    if "vocab.json" not in names:
        raise damage(
            folder / "tokenizer.json", "is missing, and so is every other file of a vocabulary"
        )


def check_weight_files(folder: Path) -> None:
    """Refuse weights that are cut, and an index that names others; no weights at all are fine.

    Of the settings, the number of layers has to suit: millions would be made before one is missed.
    """
    tensors: dict[str, set[str]] = {
        path.name: _tensor_names(path) for path in sorted(folder.glob("*.safetensors"))
    }
    if tensors:
        _check_layers(folder / "config.json", sum(map(len, tensors.values())))
    index = folder / _INDEX
    if not index.exists():
        shards = [name for name in tensors if "-of-" in name]
        if shards and "model.safetensors" not in tensors:
            raise damage(index, f"is missing, which names what {shards[0]} and the others hold")
        return
    placed = read_settings(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise damage(index, "has no weight_map")
    for name in placed.values():
        check_shard(index, name)
    if not tensors:  # not downloaded, or of another format: their absence has its own message
        return
    for tensor, name in placed.items():
        if name not in tensors:
            raise damage(folder / str(name), f"is missing, which {index.name} names")
        if tensor not in tensors[name]:
            raise damage(folder / name, f"lacks {tensor!r}, which {index.name} places there")


def _check_layers(path: Path, tensors: int) -> None:
    settings = read_settings(path, {})
    parts = [part for part in settings.values() if isinstance(part, dict)]  # such as two towers
    for key, value in (item for part in (settings, *parts) for item in part.items()):
        is_number = key.endswith(("layer", "layers")) and isinstance(value, int)
        if is_number and value > _MIN_LAYERS and value > tensors:
            raise damage(path, f"has {key} {value:,}, but the weights are {tensors:,} tensors")


def _tensor_names(path: Path) -> set[str]:
    """Read the header of a safetensors file: 8 bytes of its length, then JSON.

    Raises:
      InputError: the file is shorter or longer than its header says.
    """
    check_file(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise damage(path, "is cut, or not a safetensors file")
        try:
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        except (ValueError, AttributeError, LookupError, TypeError, RecursionError) as error:
            raise damage(path, "is not a safetensors file") from error
    if 8 + length + end != size:
        raise damage(path, f"has {size:,} bytes in place of {8 + length + end:,}")
    return set(entries)


def hash_files(root: Path, places: Iterable[Path], code: bool) -> str:
    """Return the sha256 of all that a model's files say about vectors, wherever the folder is.

    Args:
      root: the model's folder.
      places: the folders of its modules.
      code: hash the Python files too, because they are run.
    """
    digest = hashlib.sha256()
    for place in sorted(set(places), key=lambda p: p.relative_to(root).as_posix()):
        for path in _affecting_files(place, code):
            digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
            digest.update(_hash(path))
    return digest.hexdigest()


def _hash(path: Path) -> bytes:
    if path.name not in _SETTINGS:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    settings = read_settings(path)
    known = {key: value for key, value in settings.items() if key not in _INFORMATION}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).digest()


def _affecting_files(folder: Path, code: bool = False) -> list[Path]:
    """Return the files of a folder that can change a vector, sorted."""
    suffixes = (*_SUFFIXES, ".py") if code else _SUFFIXES
    return sorted(
        path
        for path in folder.glob("*")
        if path.suffix in suffixes or path.name in (*_SETTINGS, *_VOCABULARIES)
    )
