"""Send a captured request to an app again, and judge what came of it.

The command line and the page send it to a running app. ``app_runner.py`` runs the app in this process, and
``testing`` shares its parts.
"""
