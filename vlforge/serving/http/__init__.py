"""Models behind an address that speaks OpenAI's chat protocol."""
