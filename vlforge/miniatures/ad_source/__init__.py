"""What a contestant's own `src/` may look like: copied into the miniature, never imported here."""
