"""The old programs' classes over this package's models, a file a program: change an import, and old code runs.

They keep the originals' signatures, shapes and carried states. The package's own functions are simpler: see
`docs/moving`.
"""
