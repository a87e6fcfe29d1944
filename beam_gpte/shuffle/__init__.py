"""Shuffle rows by key: pack, group by id, check ids, spill to disk."""
