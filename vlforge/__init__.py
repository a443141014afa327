"""VLForge: data, training and evaluation of vision-language models in one loop."""

__version__ = "0.1.0"
