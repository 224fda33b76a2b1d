"""Code shared by all formats."""
