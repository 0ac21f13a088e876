"""Run workflows and flows: schedule their nodes, call models and functions, emit typed events.

``executor`` is the public way in for code, ``runner`` the one for a service that stores its runs.
"""
