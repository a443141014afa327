"""Pictures, dataset files and their formats, both directions. Knows no operator and no model."""
