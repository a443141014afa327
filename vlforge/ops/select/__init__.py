"""Operators that judge rows by a field or pick some of all rows."""
