"""Operators that join rows to batch rows and take batch rows apart."""
