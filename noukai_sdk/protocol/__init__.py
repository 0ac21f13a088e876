"""What is said on the wire, as generators without I/O. Start reading at ``program.py``."""
