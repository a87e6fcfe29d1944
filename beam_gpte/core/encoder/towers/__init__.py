"""Text and image towers of models such as CLIP: which there are, how each is loaded."""
