"""Models with routes: lists of modules of which one runs, for queries or for documents."""
