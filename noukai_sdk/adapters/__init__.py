"""Trace and replay web applications: one module for each framework."""
