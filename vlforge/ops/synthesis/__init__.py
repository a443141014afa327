"""Operators that write new texts by a model."""
