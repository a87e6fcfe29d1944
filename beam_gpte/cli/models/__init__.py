"""Options of models: in files, or on a server."""
