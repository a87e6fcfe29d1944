"""Bring rows together by key: pack, group by id, check ids, spill to disk."""
