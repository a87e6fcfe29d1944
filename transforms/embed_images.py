"""EmbedImages: vectors of images, in the space of texts; collect an image that is cut.

The model is a tiny random CLIP, since no package has the weights of a real one.
"""

import io
import string
import tempfile

import apache_beam as beam
import transformers
from apache_beam.testing.util import assert_that, equal_to
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from beam_gpte import EmbedImages, EmbedText, NearestNeighbors

folder = tempfile.mkdtemp()
layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
words = {word: i for i, word in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
text = {**layers, **ends, "hidden_size": 16, "vocab_size": len(words)}
vision = {**layers, "hidden_size": 16, "image_size": 32, "patch_size": 8}
config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
transformers.CLIPModel(config).save_pretrained(folder)
tokenizer = transformers.CLIPTokenizer(vocab=words, merges=[], model_max_length=77)
sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
processor = CLIPImageProcessorPil(**sizes)
transformers.CLIPProcessor(processor, tokenizer).save_pretrained(folder)

files = {}
for color in ("red", "green", "blue"):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), color).save(file, "PNG")
    files[color] = file.getvalue()
rows = [{"id": color, "image": content} for color, content in files.items()]
rows.append({"id": "cut", "image": files["red"][:50]})

with beam.Pipeline("FnApiRunner") as p:
    images, rejects = p | beam.Create(rows) | EmbedImages(folder).with_exception_handling()
    lengths = images | beam.Map(lambda row: (row["id"], len(row["embedding"])))
    assert_that(lengths, equal_to([(color, 8) for color in files]), label="Lengths")
    cut = rejects | beam.Map(lambda row: (row["id"], row["reject_reason"].split(":")[0]))
    assert_that(cut, equal_to([("cut", "image cannot be decoded")]), label="Rejects")

    queries = p | "Texts" >> beam.Create([{"id": 1, "text": "a red wall"}]) | EmbedText(folder)
    found = {"queries": queries, "documents": images} | NearestNeighbors(k=3)
    ranks = found | beam.Map(lambda pair: pair["rank"])
    assert_that(ranks, equal_to([1, 2, 3]), label="Ranks")
