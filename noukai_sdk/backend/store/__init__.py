"""Data that outlives the process: the tables, one writer, and the queries."""
