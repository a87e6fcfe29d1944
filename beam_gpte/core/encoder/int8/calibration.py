"""Turn a model's linear layers into int8, fitted to a fixed sample of texts.

    sample -> the model in fp32 -> inputs of each layer -> smoothing, zero point -> error
           -> int8 where the error is small, fp32 where it is not

The sample is a part of this package, so a layer's numbers depend on the model alone, never on a
corpus: vectors of two runs are the same. Smoothing moves outliers of a channel from activations,
which have one scale per token, to weights (SmoothQuant, arXiv 2211.10438); rounded to powers of two
it is the same on machines whose fp32 differs in the last digits.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from beam_gpte.core.encoder.int8.linear import (
    ZERO_POINTS,
    int8_linear_class,
    int8_works,
    warn_if_slower,
)

if TYPE_CHECKING:
    import torch

# Prose, questions, code, numbers, lists and names, in several languages and lengths.
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "How do I read a compressed file in Python?",
    "Library for reading and writing archives - development headers\nThis package contains the "
    "files that are needed to compile programs. It does not contain documentation.",
    "def mean(values: list[float]) -> float:\n    return sum(values) / len(values)  # not empty",
    "A man is playing a guitar on the stage, and two children dance in front of him.",
    "Error: could not open 'data/x.txt' (permission denied); exit code 13",
    "Größe und Gewicht: das Wetter ist heute sehr schön, und wir gehen im Park spazieren.",
    "Le chat dort sur le canapé depuis ce matin, et personne n'ose le réveiller.",
    "El perro corre por el parque cada mañana. ¿Quieres venir con nosotros?",
    "東京は日本の首都で、世界で最も人口の多い都市の一つです。",
    "Привет, как дела? Это простой пример предложения на русском языке.",
    "هذا مثال بسيط لجملة مكتوبة باللغة العربية.",
    "यह हिंदी में लिखा गया एक सरल वाक्य है।",
    "今天天气很好,我们去公园散步吧。",
    "1. 2. 3. 10:30, 2024-05-01, $1,234.50, x² + y² = z², http://example.com/a?b=c&d=e",
    "OK",
    "Economists expect prices to rise by about three percent next year, although the central bank "
    "has raised interest rates twice, and exports of machines, cars and medicine fell again.",
    "wireless mouse, black, 2.4 GHz, USB receiver, battery included",
)

# Rows of a layer's input that its error is measured on.
ROWS = 256

# Largest error of a layer on the sample, relative to its output, the mean of the rows. Layers of
# all-MiniLM-L6-v2 and multilingual-e5-small have 0.018 in the middle and 0.055 at most, after a
# GELU. The lowest cosine of 2,552 sentences of STS-B is 0.988 with all layers of the first in int8,
# 0.991 with this limit, which leaves 1 of 36 in fp32. With 0.03 a fifth of all products would be.
LIMIT = 0.05

# Smoothing is at most two to this power: beyond it a channel is as good as empty.
_LARGEST_EXPONENT = 12


class Inputs:
    """Keep what a layer is given while the sample runs: largest values, and some rows."""

    def __init__(self) -> None:
        self.largest: torch.Tensor | None = None
        self.rows: list[torch.Tensor] = []

    def add(self, layer: Any, arguments: tuple[Any, ...]) -> None:
        """Note an input; a forward hook."""
        import torch

        rows = arguments[0].detach().reshape(-1, layer.in_features).float()
        largest = rows.abs().amax(0)
        self.largest = largest if self.largest is None else torch.maximum(self.largest, largest)
        self.rows.append(rows[:: -(-len(rows) // ROWS)].clone())


def quantize_linears(model: Any, run_sample: Callable[[], object]) -> tuple[int, int]:
    """Replace every `torch.nn.Linear` below `model` by one in int8, if its error allows it.

    A layer that the sample does not reach stays fp32, too, as an expert that no token chose.

    Args:
      model: is changed in place.
      run_sample: runs the model over `TEXTS`.

    Returns:
      How many layers were replaced, and how many were left in fp32.

    Raises:
      NotImplementedError: this machine cannot multiply in int8.
    """
    import torch

    if not int8_works():
        raise NotImplementedError(
            "this CPU or this build of torch has no exact int8 products; use precision fp32"
        )
    warn_if_slower()
    inputs = {layer: Inputs() for layer in model.modules() if type(layer) is torch.nn.Linear}
    hooks = [layer.register_forward_pre_hook(seen.add) for layer, seen in inputs.items()]
    try:
        with torch.inference_mode():
            run_sample()
            made = {layer: fit(layer, seen) for layer, seen in inputs.items()}
    finally:
        for hook in hooks:
            hook.remove()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if made.get(child) is not None:
                setattr(parent, name, made[child])
    replaced = sum(layer is not None for layer in made.values())
    return replaced, len(made) - replaced


def fit(linear: Any, seen: Inputs) -> Any:
    """Return the int8 layer with the smallest error on what was seen; None above `LIMIT`."""
    import torch

    if seen.largest is None:
        return None
    rows = torch.cat(seen.rows)
    expected = torch.nn.functional.linear(rows, linear.weight.float(), None)
    best, smallest = None, LIMIT
    # after a GELU tokens differ more than channels do, and smoothing loses
    for scales in (torch.ones(linear.in_features), smoothing(seen.largest, linear.weight)):
        layer = int8_linear_class()(linear, scales)
        for zero_point in ZERO_POINTS:
            error = relative_error(layer.multiply(rows, zero_point), expected)
            if error < smallest:  # not true of NaN: such a layer stays fp32
                best, smallest, layer.zero_point = layer, error, zero_point
    return best


def smoothing(largest: "torch.Tensor", weight: "torch.Tensor") -> "torch.Tensor":
    """Return powers of two, float32 (in,): sqrt(largest weight / largest input) of each channel."""
    import torch

    weights = weight.detach().float().abs().amax(0)
    exponents = (weights.clamp(min=1e-30).log2() - largest.clamp(min=1e-30).log2()) / 2
    middle = exponents.median()
    limited = (exponents - middle).clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT)
    return torch.exp2(limited.round())


def relative_error(found: "torch.Tensor", expected: "torch.Tensor") -> float:
    """Return the mean of the rows' |found - expected| / |expected|, in float64."""
    difference = (found.double() - expected.double()).norm(dim=1)
    return float((difference / expected.double().norm(dim=1).clamp(min=1e-30)).mean())
