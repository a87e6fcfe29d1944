"""Model handlers of Beam's RunInference, over blocks of rows."""
