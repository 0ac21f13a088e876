"""Send a captured request to a running app again, and judge what came of it.

The command line and the page both use it. ``testing`` does the same with an app in this process.
"""
