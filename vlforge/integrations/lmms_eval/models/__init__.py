"""Where lmms-eval's older plug-in way looks: a module per model, and this table of classes."""

AVAILABLE_MODELS = {"vlforge": "VLForge"}
