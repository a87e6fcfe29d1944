"""Write tiny random models with a text and an image tower, and draw images for them."""

import io
import string
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

TEXTS = ["a cat", "two dogs on a mat, asleep", "A CAT", "x" * 200, "b", "numbers 1 2 3"]
SIZE = 32  # pixels of a side
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
VISION = {**LAYERS, "hidden_size": 32, "image_size": SIZE, "patch_size": 8}
_PIECES = [*string.ascii_lowercase, *string.digits, *",.!?'"]


def make_clip(folder: Path, end_id: int | None = None, **processor: Any) -> Path:
    """Write a tiny CLIP as transformers does.

    Args:
      folder: to be made.
      end_id: in place of that of the tokenizer, such as 2, which early configurations have.
      **processor: settings of its image processor.
    """
    words = [*_PIECES, *(f"{piece}</w>" for piece in _PIECES), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    end = vocabulary["<|endoftext|>"] if end_id is None else end_id
    text = {"vocab_size": len(words), "hidden_size": 24, "max_position_embeddings": 77}
    text |= {**LAYERS, "eos_token_id": end, "bos_token_id": end - 1, "pad_token_id": 0}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    save(transformers.CLIPModel, config, folder)
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
    sizes = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    images = CLIPImageProcessorPil(**{**sizes, **processor})
    transformers.CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def make_siglip(folder: Path, **settings: Any) -> Path:
    """Write a tiny SigLIP, with a tokenizer that does what the published ones do."""
    words = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0)]
    words += [(piece, -3.0) for piece in _PIECES] + [("▁a", -1.0), ("cat", -1.5)]
    backend = Tokenizer(models.Unigram(words, unk_id=0))
    punctuation = "[" + "".join(f"\\{sign}" for sign in string.punctuation) + "]"
    blanks = normalizers.Replace(Regex(r"\s+"), " ")
    bare = normalizers.Replace(Regex(punctuation), "")
    steps = [normalizers.Lowercase(), bare, blanks, normalizers.Strip()]
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    text = {**LAYERS, "vocab_size": len(words), "hidden_size": 32, "max_position_embeddings": 64}
    config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
    save(transformers.SiglipModel, config, folder)
    names = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "</s>"}
    names |= {"model_max_length": 64, "model_input_names": ["input_ids"], "padding_side": "right"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, **{**names, **settings}
    ).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    return folder


def save(kind: Any, config: Any, folder: Path) -> None:
    """Write a random model whose vectors are far from one another."""
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.2)
            elif name.endswith("bias"):
                weight.normal_(std=0.05)
    model.save_pretrained(folder)


def draw(seed: int = 0, width: int = 48, height: int = 40, mode: str = "RGB") -> Image.Image:
    """Draw a random image of large spots."""
    generator = np.random.default_rng(seed)
    spots = generator.integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(spots).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Write an image as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
