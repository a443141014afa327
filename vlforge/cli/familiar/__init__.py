"""Old command lines of the five systems, each with ours beside it."""
