"""Running operators over a dataset: planned, streamed, counted, resumable."""
