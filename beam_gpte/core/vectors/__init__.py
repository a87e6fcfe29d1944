"""Compare, cluster, quantize and postprocess matrices of vectors."""
