"""Take any kind of model where one is named, and load it: `load_model(as_model(model))`.

name, EncoderConfig --> TextEncoder or StaticEncoder, one per process
EndpointConfig -------> EndpointEncoder, one per process
custom encoder -------> CustomEncoder
"""

from typing import overload

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.custom_encoder import CustomEncoder
from beam_gpte.core.encoder.model_folder import model_name
from beam_gpte.core.encoder.text_encoder import Encoder
from beam_gpte.core.errors import InputError
from beam_gpte.core.served.endpoint import EndpointConfig
from beam_gpte.core.served.endpoint_encoder import EndpointEncoder
from beam_gpte.core.static.load_encoder import Pretrained, load_encoder
from beam_gpte.embedding.shared_models import shared_endpoint, shared_model

Model = EncoderConfig | EndpointConfig | Encoder
LoadedModel = Pretrained | EndpointEncoder | CustomEncoder


def as_model(model: object) -> Model:
    """Turn a name into a configuration; return configurations and encoders unchanged.

    Raises:
      InputError: it is neither name nor configuration nor an object that encodes.
    """
    if isinstance(model, str):
        return EncoderConfig(model)
    if not isinstance(model, Model):
        raise InputError(
            f"model {model!r}: give a name, a folder, an EncoderConfig, an EndpointConfig "
            "or an object with encode(texts)"
        )
    return model


@overload
def load_model(model: EncoderConfig) -> Pretrained: ...


@overload
def load_model(model: Model) -> LoadedModel: ...


def load_model(model: Model) -> LoadedModel:
    """Return a model of any kind; all but custom ones are shared by all steps of this process.

    Raises:
      InputError: it does not exist, cannot be loaded, or does not answer.
    """
    if isinstance(model, EncoderConfig):
        return shared_model(load_encoder, model)
    if isinstance(model, EndpointConfig):
        return shared_endpoint(EndpointEncoder, model)
    return CustomEncoder(model)


def name_of(config: EncoderConfig | EndpointConfig) -> str:
    """Name a model for whoever reads its vectors, as their metadata do."""
    return model_name(config) if isinstance(config, EncoderConfig) else config.model
