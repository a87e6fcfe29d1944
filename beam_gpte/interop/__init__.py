"""Connect to Beam YAML, MLTransform and Beam's RAG package."""
