"""Models that bring Python code: what needs it, and those that pool by it."""
