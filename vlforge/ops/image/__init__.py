"""Operators that read pictures."""
