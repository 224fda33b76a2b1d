"""Drop-in replacements for the classes of older ELMo programs, one file per program.

They keep the originals' signatures, shapes and carried states, so that old code runs with a changed import. The
package's own functions are simpler: see `docs/moving`.
"""
