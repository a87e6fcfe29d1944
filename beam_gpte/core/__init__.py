"""Run numerics and models. Nothing in this folder imports Beam."""
