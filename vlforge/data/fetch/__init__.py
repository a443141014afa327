"""What a system needs, brought from where it lies: archives, hub repositories, tables."""
