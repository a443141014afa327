"""Words."""

GREETING = "hello"
