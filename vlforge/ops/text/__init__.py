"""Operators that read text."""
