"""One file per dataset format, both directions."""
