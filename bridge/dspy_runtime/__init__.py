"""Everything that touches DSPy. Importing this package imports none of it."""
