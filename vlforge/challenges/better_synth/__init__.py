"""Better Synth: synthesise pretraining data for MGM-2B under a fixed budget."""
