"""Load what makes a model's vector of a token: projections, then a length of 1."""

from typing import TYPE_CHECKING

from beam_gpte.core.encoder.heads import load_weights, make_activation, size_of
from beam_gpte.core.encoder.model_folder import Module
from beam_gpte.core.encoder.pretrained import check_finite, named_failure
from beam_gpte.core.model_files import check_weight_files, damage
from beam_gpte.core.multi_vectors.token_folder import TokenFolder

if TYPE_CHECKING:
    import torch

_STANFORD_WEIGHT = "linear.weight"


def load_token_head(folder: TokenFolder) -> "torch.nn.Module":
    """Load the projections of a model, in fp32: float (tokens, hidden) to (tokens, dim).

    Raises:
      InputError: weights are missing or damaged; the message names the file.
    """
    import torch

    class Normalize(torch.nn.Module):
        def forward(self, vectors: "torch.Tensor") -> "torch.Tensor":
            return torch.nn.functional.normalize(vectors, dim=-1)

    layers = [_dense(module) for module in folder.dense]
    if not folder.model.modules:
        layers = [_stanford(folder)]
    if folder.normalize:
        layers.append(Normalize())
    return torch.nn.Sequential(*layers).eval()


def _dense(module: Module) -> "torch.nn.Module":
    """Load a Dense module, with its residual where it has one."""
    import torch

    shape = (size_of(module, "in_features"), size_of(module, "out_features"))
    path = module.setting("activation_function", str) or "torch.nn.Tanh"
    has_bias = module.setting("bias", bool) is not False
    has_residual = module.setting("use_residual", bool) is True

    class Dense(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # of no memory until they are loaded: a size in a file is only a claim
            self.linear = torch.nn.Linear(*shape, bias=has_bias, device="meta")
            self.activation = make_activation(path, f"model folder {module.folder}")
            self.residual: torch.nn.Module | None = None
            if has_residual and shape[0] != shape[1]:
                self.residual = torch.nn.Linear(*shape, bias=False, device="meta")

        def forward(self, vectors: "torch.Tensor") -> "torch.Tensor":
            found: torch.Tensor = self.activation(self.linear(vectors))
            if not has_residual:
                return found
            return found + (vectors if self.residual is None else self.residual(vectors))

    dense = Dense()
    load_weights(dense, module, prefix="")
    return dense


def _stanford(folder: TokenFolder) -> "torch.nn.Module":
    """Load the projection that lies among the weights of the transformer."""
    import safetensors
    import torch

    place = folder.model.transformer
    check_weight_files(place)
    for path in sorted(place.glob("*.safetensors")):
        with (
            named_failure(path, "cannot be read"),
            safetensors.safe_open(path, framework="pt") as file,
        ):
            if _STANFORD_WEIGHT in file.keys():  # noqa: SIM118  # not a mapping
                weight = file.get_tensor(_STANFORD_WEIGHT).to(torch.float32)
                check_finite(path, [(_STANFORD_WEIGHT, weight)])
                linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
                linear.weight = torch.nn.Parameter(weight, requires_grad=False)
                return linear
    raise damage(place / "model.safetensors", f"lacks {_STANFORD_WEIGHT}, the projection")
