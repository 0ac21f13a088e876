"""The cassette engine: what was recorded, which recording answers a call, and how it is served.

It does not know where a cassette came from (``sources`` does) and does no I/O: serving is a program
like any other, which the client's own driver runs.
"""
