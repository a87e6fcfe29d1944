"""Low-rank adapters (LoRA, PEFT's layout): read, checked and merged into the weights of a base."""
