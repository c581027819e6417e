"""What is run from a terminal, a file for each command: its flags, and what it wires together."""
