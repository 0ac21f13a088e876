"""Clients for language models, and the interface that the engine uses them by.

``client.py`` and ``embeddings.py`` have the public clients, ``config.py`` says which model to call and
``errors.py`` has every error. ``chat.py`` is the interface of a model; ``providers/`` implements it for
OpenAI, Anthropic, a small model in this process and an offline model. The engine opens models through
``pool.py``; the public clients keep theirs in the loop thread, through ``loop_bound.py``.
"""
