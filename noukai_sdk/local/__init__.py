"""Flows that run in this process, and the model clients they use."""
