"""Load the head of a sparse autoencoder, as sentence-transformers' SparseAutoEncoder saves it.

A dense vector x becomes the largest of relu(W (x - b) + c), as many as the model keeps (CSR, arXiv
2503.01776). A term is a latent of the autoencoder, without a name.
"""

from typing import TYPE_CHECKING

from beam_gpte.core.encoder.heads import size_of
from beam_gpte.core.encoder.model_folder import Module
from beam_gpte.core.encoder.pretrained import check_finite, named_failure
from beam_gpte.core.model_files import check_weight_files, damage
from beam_gpte.core.sparse.splade_head import POOLINGS, POSITIVE, SpladeHead

if TYPE_CHECKING:
    import torch

EPSILON = 1e-5  # of its normalization

# The encoder's weights are those of the decoder, transposed; files have one of both.
_ENCODER = ("encoder.weight", "decoder.linear.weight")
_OTHERS = ("pre_bias", "latent_bias", "stats_last_nonzero")  # the last one is of its training


def load_autoencoder(module: Module) -> SpladeHead:
    """Load weights and settings: a head over dense vectors, one per text.

    Raises:
      InputError: the weights are missing, or do not suit the settings.
    """
    import safetensors.torch
    import torch

    path = module.folder / "model.safetensors"
    if not path.exists():
        raise damage(path, "is missing")
    check_weight_files(module.folder)
    width, latents = (size_of(module, name) for name in ("input_dim", "hidden_dim"))
    with named_failure(path, "is not a safetensors file"):
        weights = {name: one.float() for name, one in safetensors.torch.load_file(path).items()}
    encoder = next((weights[name] for name in _ENCODER if name in weights), None)
    other = sorted(weights.keys() - {*_ENCODER, *_OTHERS})
    if other:
        raise damage(path, f"has a tensor {other[0]!r}, which is not read here")
    bias, latent_bias = weights.get("pre_bias"), weights.get("latent_bias")
    if encoder is None or bias is None or latent_bias is None:
        raise damage(path, f"lacks one of pre_bias, latent_bias and {_ENCODER[0]}")
    shapes = (encoder.shape, bias.shape, latent_bias.shape)
    if shapes != ((latents, width), (width,), (latents,)):
        raise damage(path, f"has weights of shapes {[list(shape) for shape in shapes]}")
    check_finite(path, weights.items())
    linear = torch.nn.Linear(width, latents, device="meta")
    linear.weight, linear.bias = (
        torch.nn.Parameter(one, requires_grad=False) for one in (encoder, latent_bias)
    )
    normalize = module.setting("normalize", bool) is True
    return SpladeHead(_shift(bias, normalize), linear, POOLINGS[0], POSITIVE)


def _shift(bias: "torch.Tensor", normalize: bool) -> "torch.nn.Module":
    """Make the step before the product: normalize, where the model does, and subtract a bias."""
    import torch

    class Shift(torch.nn.Module):
        bias: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("bias", bias)

        def forward(self, vectors: "torch.Tensor") -> "torch.Tensor":
            if normalize:
                vectors = vectors - vectors.mean(dim=-1, keepdim=True)
                vectors = vectors / (vectors.std(dim=-1, keepdim=True) + EPSILON)
            return vectors - self.bias

    return Shift().eval()
