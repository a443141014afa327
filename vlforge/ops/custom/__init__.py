"""What runs operators that were written for Data-Juicer: its classes' stand-ins, and adapters."""
