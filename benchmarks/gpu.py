"""Check and measure the encoder on a GPU, in one command of at most eight minutes.

    python -m benchmarks.gpu_models FOLDER           # where the models are: configs and tokenizers
    python benchmarks/gpu.py FOLDER [--device cuda] [--seconds 440] [--texts 4000]

Needs torch, transformers and tokenizers, and takes only the numerics of this project: `core` runs
where Beam, Polars, DuckDB and Arrow are not installed. FOLDER has a folder for each model, with its
config and its real tokenizer; weights that are missing are random, with which nothing is faster or
slower. On a CPU it is a dry run of the command: all but what needs a GPU.

Checks, each a line, and an exit code of 1 if one fails: vectors of fp16 and bf16 against fp32, a
text alone against the same among others, and a batch that does not fit the memory.

Then texts per second, on docstrings of the standard library of mixed lengths and on 128 tokens
each, against sentence-transformers in fp16 with its defaults (batches of 32, padded), and with
flash attention where that is installed; where it is not, against the same loop on transformers. And
the share of the products' peak, which is measured on square matrices. Variants take turns until the
time is over; figures are medians.
"""

import argparse
import importlib.util
import json
import random
import shutil
import statistics
import sys
import sysconfig
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
BATCH = 32  # the default of sentence-transformers
SQUARE = 8192  # rows of the matrices that show the peak of the products
TOKENS = 128  # of each text of the second corpus
PRECISIONS = ("fp16", "bf16")
TOLERANCE = {"fp32": 0.99999, "fp16": 0.999, "bf16": 0.99}  # lowest cosine to fp32
ALONE = {"fp32": 0.999999, "fp16": 0.9999, "bf16": 0.999}  # to the same text in another batch

Encode = Callable[[list[str]], np.ndarray]


def import_numerics() -> None:
    """Let `beam_gpte.core` be imported without what the whole package imports."""
    if "beam_gpte" not in sys.modules:
        package = types.ModuleType("beam_gpte")
        package.__path__ = [str(ROOT / "beam_gpte")]
        package.export = lambda public: public  # type: ignore[attr-defined]
        sys.modules["beam_gpte"] = package


def docstrings() -> Iterator[str]:
    """Yield the docstrings of the standard library, half of them only their first line."""
    import ast

    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if {"test", "tests", "site-packages", "dist-packages"} & set(path.parts):
            continue
        try:
            nodes = list(ast.walk(ast.parse(path.read_bytes())))
        except (SyntaxError, ValueError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        yield from (
            text for node in nodes if isinstance(node, kinds) and (text := ast.get_docstring(node))
        )


def corpus(size: int) -> list[str]:
    """Return texts of mixed lengths, no two of them equal."""
    texts = list(dict.fromkeys(docstrings()))
    random.Random(0).shuffle(texts)
    mixed = [text if i % 2 else text.splitlines()[0] for i, text in enumerate(texts)]
    return list(dict.fromkeys(mixed))[:size]


def with_weights(folder: Path, made: Path) -> Path:
    """Return a folder with weights: random ones, by a seed, where there are none."""
    if (folder / "model.safetensors").exists():
        return folder
    config = transformers.AutoConfig.from_pretrained(folder)
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config, dtype=torch.float32)
    complete = made / folder.name
    shutil.copytree(folder, complete)
    model.save_pretrained(complete)
    return complete


class Clock:
    """Read the clock once the device has done its work."""

    def __init__(self, device: str) -> None:
        self._waits = device.startswith("cuda")

    def __call__(self) -> float:
        """Return seconds."""
        if self._waits:
            torch.cuda.synchronize()
        return time.perf_counter()


# ---- the encoders


def load_ours(folder: Path, device: str, precision: str) -> Any:
    from beam_gpte.core.encoder.config import EncoderConfig
    from beam_gpte.core.encoder.text_encoder import TextEncoder

    config = EncoderConfig(str(folder), pooling="mean", device=device, precision=precision)
    return TextEncoder.load(config)


def load_peers(folder: Path, device: str) -> dict[str, Encode]:
    """Load what encodes the same: sentence-transformers, or its loop where it is not installed."""
    kinds = [None]
    if device.startswith("cuda") and importlib.util.find_spec("flash_attn") is not None:
        kinds.append("flash_attention_2")
    has_it = importlib.util.find_spec("sentence_transformers") is not None
    load = _sentence_transformers if has_it else _padded_loop
    name = "sentence-transformers" if has_it else "padded batches of 32"
    return {f"{name}, {kind}" if kind else name: load(folder, device, kind) for kind in kinds}


def _dtype(device: str) -> torch.dtype:
    return torch.float16 if device.startswith("cuda") else torch.float32


def _sentence_transformers(folder: Path, device: str, attention: str | None) -> Encode:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    arguments: dict[str, Any] = {"dtype": _dtype(device)}
    if attention:
        arguments["attn_implementation"] = attention
    layer = Transformer(str(folder), model_args=arguments)
    pooling = Pooling(layer.get_word_embedding_dimension(), "mean")
    model = SentenceTransformer(modules=[layer, pooling], device=device)
    return lambda texts: model.encode(
        texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
    )


def _padded_loop(folder: Path, device: str, attention: str | None) -> Encode:
    """Sort by length, pad batches of 32, and take the mean: what sentence-transformers does."""
    arguments = {"attn_implementation": attention} if attention else {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = transformers.AutoModel.from_pretrained(folder, dtype=_dtype(device), **arguments)
    model = model.to(device).eval()
    limit = min(tokenizer.model_max_length, model.config.max_position_embeddings - 2)

    @torch.inference_mode()
    def encode(texts: list[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        vectors: list[torch.Tensor] = []
        for first in range(0, len(order), BATCH):
            some = [texts[i] for i in order[first : first + BATCH]]
            inputs = tokenizer(
                some, padding=True, truncation=True, max_length=limit, return_tensors="pt"
            ).to(device)
            hidden = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(2)
            mean = (hidden * mask).sum(1).float() / mask.sum(1)
            vectors += torch.nn.functional.normalize(mean, dim=1)
        result = torch.stack(vectors).cpu().numpy()
        return result[np.argsort(order)]

    return encode


# ---- checks


class Checks:
    """Print a line for each check, and remember whether one has failed."""

    def __init__(self) -> None:
        self.failed = False

    def check_min(self, name: str, value: float, limit: float) -> None:
        """Check a value."""
        good = value >= limit
        self.failed |= not good
        print(f"{'ok' if good else 'FAILED':8}{name}: {value:.6f} (at least {limit})", flush=True)


def cosine(some: np.ndarray, others: np.ndarray) -> float:
    return float((some * others).sum(1).min())


def check(folder: Path, device: str, texts: list[str], checks: Checks) -> None:
    """Compare precisions, neighbors, and a memory that is too small."""
    on_gpu = device.startswith("cuda")
    expected = load_ours(folder, "cpu", "fp32").encode(texts)
    for precision in ("fp32", *(PRECISIONS if on_gpu else ())):
        encoder = load_ours(folder, device, precision)
        found = encoder.encode(texts)
        name = f"{folder.name} {precision}"
        checks.check_min(
            f"{name}: to fp32 on the CPU", cosine(found, expected), TOLERANCE[precision]
        )
        alone = np.concatenate([encoder.encode([text]) for text in texts[:16]])
        checks.check_min(f"{name}: alone", cosine(alone, found[:16]), ALONE[precision])
        if on_gpu and precision == "fp16":
            check_memory(encoder, texts, found, checks, name)


def check_memory(
    encoder: Any, texts: list[str], expected: np.ndarray, checks: Checks, name: str
) -> None:
    """Leave so little memory that the first batch does not fit."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(
        min(1.0, (torch.cuda.memory_allocated() + (256 << 20)) / total)
    )
    try:
        encoding = encoder.encode_with_counts(texts * 16)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    checks.check_min(f"{name}: batches that were halved", encoding.retries, 1)
    checks.check_min(
        f"{name}: with little memory", cosine(encoding.vectors[: len(texts)], expected), 0.9999
    )


# ---- figures


def peak_flops(clock: Clock, device: str, dtype: torch.dtype) -> float:
    """Measure the products of large matrices, FLOP/s."""
    size = SQUARE if device.startswith("cuda") else 512
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    with torch.inference_mode():
        for _ in range(5):
            began = clock()
            torch.mm(a, b)
            best = min(best, clock() - began)
    return 2 * size**3 / best


def flops(folder: Path, lengths: np.ndarray) -> float:
    """Count two for each weight of a linear layer, and 4 x tokens x hidden for attention."""
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    model.pooler = None
    linears = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    attention = 4 * config.num_hidden_layers * config.hidden_size * (lengths**2).sum()
    return float(2 * linears * lengths.sum() + attention)


def of_length(texts: list[str], count: Callable[[list[str]], Any]) -> list[str]:
    """Join texts until each has `TOKENS` tokens, and cut them there, to a word."""
    words = " ".join(texts).split()
    result, at, size = [], 0, TOKENS // 2
    while len(result) < len(texts) // 2 and at + size < len(words):
        text = " ".join(words[at : at + size])
        tokens = int(count([text]).tokens[0])
        size = max(8, round(size * TOKENS / tokens))
        result.append(" ".join(words[at : at + size]))
        at += size
    return result


def measure(
    folder: Path, device: str, texts: list[str], seconds: float, peak: float, clock: Clock
) -> dict[str, Any]:
    """Let all encoders take turns for so many seconds; return texts per second."""
    precisions = PRECISIONS if device.startswith("cuda") else ("fp32",)
    ours = {name: load_ours(folder, device, name) for name in precisions}
    first = ours[precisions[0]]
    corpora = {"mixed": texts, f"{TOKENS} tokens": of_length(texts, first.count_tokens)}
    encoders: dict[str, Encode] = {name: encoder.encode for name, encoder in ours.items()}
    encoders |= load_peers(folder, device)
    taken: dict[tuple[str, str], list[float]] = {}
    ends, rounds = time.monotonic() + seconds, 0
    while rounds < 2 or time.monotonic() < ends:  # the first is not counted
        for kind, part in corpora.items():
            for name, encode in encoders.items():
                began = clock()
                encode(part)
                if rounds:
                    taken.setdefault((kind, name), []).append(clock() - began)
        rounds += 1
    peer = next(name for name in encoders if name not in ours)
    print(f"\n{folder.name}: {rounds - 1} rounds")
    rows = {}
    for (kind, name), times in taken.items():
        part = corpora[kind]
        speed = len(part) / statistics.median(times)
        ratio = statistics.median(
            theirs / mine for theirs, mine in zip(taken[kind, peer], times, strict=True)
        )
        lengths = first.count_tokens(part).tokens.astype(np.float64)
        share = flops(folder, lengths) / statistics.median(times) / peak
        rows[f"{kind}, {name}"] = {"texts/s": speed, "/ peer": ratio, "of the peak": share}
        print(f"  {kind:12}{name:36}{speed:10.0f} texts/s{ratio:8.2f}{share:8.2f} of the peak")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="a folder for each model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=440, help="for all of it")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    began, clock, checks = time.monotonic(), Clock(options.device), Checks()
    import_numerics()
    on_gpu = options.device.startswith("cuda")
    card = torch.cuda.get_device_name(0) if on_gpu else "CPU: a dry run, of which no figure counts"
    print(f"{card}; torch {torch.__version__}, transformers {transformers.__version__}")
    peak = peak_flops(clock, options.device, _dtype(options.device))
    print(f"products: {peak / 1e12:.2f} TFLOP/s", flush=True)
    texts, figures = corpus(options.texts), {}
    with tempfile.TemporaryDirectory() as name:
        folders = sorted(path for path in options.folder.iterdir() if path.is_dir())
        folders = [with_weights(folder, Path(name)) for folder in folders]
        for folder in folders:
            check(folder, options.device, texts[:64], checks)
        for number, folder in enumerate(folders):
            left = options.seconds - (time.monotonic() - began)
            share = max(0.0, left) / (len(folders) - number)
            figures[folder.name] = measure(folder, options.device, texts, share, peak, clock)
    if options.out:
        about = {"card": card, "peak": peak, "failed": checks.failed, "models": figures}
        options.out.write_text(json.dumps(about, indent=1))
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()
