"""The local Noukai service: the wire contract over flows that run in this process.

Start reading at ``app.py``; the life of one run is in ``runs.py``. ``noukai dev`` serves it.
"""
