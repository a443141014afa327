"""Parts of `benchmarks/data.py`: made pictures and captions, recipes, measuring, comparing."""
