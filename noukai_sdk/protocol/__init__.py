"""The wire protocol as generators that do no I/O. Start reading at ``program.py``."""
