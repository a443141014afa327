"""OpenAI-compatible endpoints: one client for judging, for synthesis and for evaluation."""
