"""Small random models, one file per published layout."""
