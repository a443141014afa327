"""How long tests of servers and pages wait."""

PATIENCE_S = 120.0
"""How long anything here may take: a busy machine is no fault of a server's."""
