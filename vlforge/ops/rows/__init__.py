"""Mappers that work on whole rows."""
