"""Recipes of other tools, read as ours."""
