"""Load pretrained language models and encode texts into vectors."""
