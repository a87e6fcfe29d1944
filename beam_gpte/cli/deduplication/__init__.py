"""Options of `beam-gpte dedup` around its steps: repeated spans before them, signatures after."""
