"""Access files and models on any Beam file system."""
