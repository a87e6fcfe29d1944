"""Load one tower of a model with its projection, and no weight of the other tower."""

from typing import TYPE_CHECKING, Any, NamedTuple

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.model_folder import ModelFolder
from beam_gpte.core.encoder.pretrained import load_pretrained

if TYPE_CHECKING:
    import torch


class Tower(NamedTuple):
    """Hold one tower.

    Attributes:
      model: transformers' model.
      projection: from what it pools into the space of both towers.
    """

    model: Any
    projection: "torch.nn.Module"


def load_text_tower(folder: ModelFolder, config: EncoderConfig) -> Tower:
    """Load the text tower in fp32; without a projection where it was saved alone without one.

    Raises:
      InputError: as `load_pretrained`.
    """
    import torch

    model = load_pretrained(folder, config, "text tower")
    if hasattr(model, "text_projection"):
        return Tower(model.text_model, model.text_projection)
    if not hasattr(model, "head"):
        return Tower(model, torch.nn.Identity())
    projection, model.head = model.head, torch.nn.Identity()
    return Tower(model, projection)


def load_image_tower(folder: ModelFolder, config: EncoderConfig) -> Tower:
    """Load the image tower in fp32.

    Raises:
      InputError: as `load_pretrained`.
    """
    import torch

    model = load_pretrained(folder, config, "image tower")
    if hasattr(model, "visual_projection"):
        return Tower(model.vision_model, model.visual_projection)
    return Tower(model, torch.nn.Identity())
