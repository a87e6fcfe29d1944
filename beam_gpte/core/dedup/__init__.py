"""Find and group near-duplicate vectors within one worker."""
