"""The local Noukai service: the wire contract over flows that run in this process.

Start reading at ``app.py``; ``runs.py`` has the life of a run. ``noukai dev`` serves the app.
"""
