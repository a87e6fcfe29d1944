"""Map vectors of one model into the space of another."""
