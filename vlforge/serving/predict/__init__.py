"""A model over a file: a row in, a row out, in the same order."""
