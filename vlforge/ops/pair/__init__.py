"""Operators that compare a text with its pictures."""
