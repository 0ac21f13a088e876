"""Run programs over HTTP."""
