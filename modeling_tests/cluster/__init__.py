"""On real clusters, in environments of their own."""
