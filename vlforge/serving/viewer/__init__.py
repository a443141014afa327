"""The dataset viewer: rows found by their place in the file, shown in a local browser page."""
