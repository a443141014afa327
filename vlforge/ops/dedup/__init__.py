"""Operators that keep the first of equal rows."""
