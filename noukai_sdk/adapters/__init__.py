"""Trace and replay in web applications: one module for each framework."""
