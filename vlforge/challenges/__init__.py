"""Contests: their folders, their rules before an hour is spent, their runs and their packages."""
