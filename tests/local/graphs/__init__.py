"""Random graphs, and a reference interpreter that says what each must return."""
