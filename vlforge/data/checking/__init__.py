"""What is wrong with a dataset, and what of it has one right repair."""
