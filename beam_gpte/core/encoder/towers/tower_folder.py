"""Find out whether a model has a tower for texts, and one for images. Loads no torch.

    texts --> text tower ---+
                            +--> vectors of one space
    images --> image tower -+

CLIP (Radford et al., arXiv 2103.00020) and SigLIP (Zhai et al., arXiv 2303.15343; SigLIP 2, arXiv
2502.14786, in its checkpoints of a fixed resolution, whose model type is the same). A text tower
that was saved alone is run as it is within its model, and takes no images.
"""

import dataclasses
import hashlib
from pathlib import Path

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.errors import InputError
from beam_gpte.core.model_files import damage, read_settings
from beam_gpte.core.model_references import check_references

KINDS = ("clip", "siglip")
MODULE = "CLIPModel"  # the first module of sentence-transformers before 5.4
PROCESSOR = "preprocessor_config.json"
PROCESSORS = (PROCESSOR, "processor_config.json")  # the second one holds parts, and may have none

# Model types with both kinds of input that are not run here: most would fail late, or give vectors
# of another part.
_OTHERS = (
    "align",
    "altclip",
    "blip",
    "chinese_clip",
    "clipseg",
    "flava",
    "groupvit",
    "metaclip_2",
    "siglip2",
    "vision-text-dual-encoder",
    "xclip",
)
_IMAGES_ALONE = tuple(f"{kind}_vision_model" for kind in (*KINDS, "siglip2"))
_TEXTS_ALONE = {f"{kind}_text_model": kind for kind in KINDS}
_CLIP_TEXTS = "clip_text_model"  # which transformers runs as a language model, too
# Text towers whose vector is not the mean of their tokens, and of which no file says what it is.
_OTHER_TEXTS = (
    "aimv2_text_model",
    "align_text_model",
    "altclip_text_model",
    "chinese_clip_text_model",
    "clap_text_model",
    "clipseg_text_model",
    "flava_text_model",
    "groupvit_text_model",
    "metaclip_2_text_model",
    "owlv2_text_model",
    "owlvit_text_model",
    "siglip2_text_model",
    "xclip_text_model",
)

# Settings of texts that the text tower has no use for: what it pools is part of the model.
_REFUSED = (
    ("pooling", "auto"),
    ("layers", 1),
    ("pool_text_only", False),
    ("trust_remote_code", False),
)


@dataclasses.dataclass(frozen=True)
class Towers:
    """Hold what is known of a model with two towers, or of a text tower.

    Attributes:
      kind: of `KINDS`.
      folder: with config.json, weights and the settings of the image processor.
      has_images: whether there is an image tower.
    """

    kind: str
    folder: Path
    has_images: bool = True

    @property
    def pooling(self) -> str:
        """Describe the pooling of both towers for people: it is part of the model."""
        return self.kind

    def hash(self) -> str:
        """Hash what the model says about pixels, which is part of both towers' fingerprint."""
        digest = hashlib.sha256()
        for name in PROCESSORS:
            path = self.folder / name
            digest.update(f"{name}\n".encode())
            digest.update(path.read_bytes() if path.exists() else b"")
        return digest.hexdigest()


def read_towers(folder: Path, is_pooled: bool = False) -> Towers | None:
    """Read which towers a model has; None for a language model.

    Args:
      folder: with config.json.
      is_pooled: whether something says how the tokens are pooled, by which a text tower that was
        saved alone is a language model.

    Raises:
      InputError: it has some that are not supported, or its settings lead elsewhere.
    """
    path = folder / "config.json"
    kind = read_settings(path).get("model_type")
    if kind in _IMAGES_ALONE:
        raise damage(
            path,
            f"is that of an image tower alone ({kind})",
            "use the whole model, which has a text tower too",
        )
    if kind in _OTHERS:
        raise damage(
            path,
            f"has model_type {kind!r}, whose texts and images are not supported",
            "use a model of type clip or siglip, of a fixed resolution",
        )
    if kind in _OTHER_TEXTS and not is_pooled:
        raise damage(
            path,
            f"is that of a text tower ({kind}), which pools its tokens in its own way",
            "give the pooling that suits it, or use a model of type clip or siglip",
        )
    if kind in _TEXTS_ALONE and not (is_pooled and kind == _CLIP_TEXTS):
        return Towers(_TEXTS_ALONE[kind], folder, has_images=False)
    if kind not in KINDS:
        return None
    for name in PROCESSORS:
        check_references(folder / name, read_settings(folder / name, {}))
    return Towers(kind, folder)


def check_text_settings(config: EncoderConfig) -> None:
    """Refuse settings that a text tower cannot follow.

    Raises:
      InputError: there is one; names it.
    """
    given = [name for name, plain in _REFUSED if getattr(config, name) != plain]
    given += ["long_text"] if config.long_text == "late_chunks" else []
    given += ["adapter"] if config.adapter else []
    for name in given:
        raise _refused(config, name)


def check_image_settings(config: EncoderConfig) -> None:
    """Refuse settings that an image tower cannot follow; those of texts alone are ignored.

    Raises:
      InputError: there is one; names it.
    """
    if config.precision == "int8":
        raise InputError(
            "precision 'int8': images are embedded in fp32, bf16 or fp16; name one of them, for "
            "the texts too"
        )
    if config.adapter:
        raise _refused(config, "adapter")
    if config.trust_remote_code:
        raise _refused(config, "trust_remote_code")


def _refused(config: EncoderConfig, name: str) -> InputError:
    return InputError(
        f"{name} {getattr(config, name)!r}: model {config.model!r} has a text or an image tower, "
        "which does not take it; leave it out"
    )
