"""Mappers that read, fetch or send the files that rows name."""
