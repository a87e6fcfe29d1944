"""Predict what a job costs from a sample of its input, for `--dry_run`."""
