"""The cassette engine: recordings, matching them to calls, and serving them.

It does not know where a cassette came from (``sources`` does) and does no I/O: serving a call is a
program like any other, and the client's own driver runs it.
"""
