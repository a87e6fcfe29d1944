"""Runs of a sink: what names them, who owns their temporary files, and what two of them may do."""
