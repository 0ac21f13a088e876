"""Replay many captured requests at once, for ``noukai sessions replay``.

``workers.py`` is the entrance: it runs the app in worker processes, or sends the requests to a running app.
"""
