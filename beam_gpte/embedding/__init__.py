"""Embed, rerank, quantize and postprocess collections."""
