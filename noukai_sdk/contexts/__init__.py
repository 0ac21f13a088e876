"""What models received in the calls of a session, and what changed from one call to another.

``model_inputs`` reads it from recordings, ``message_changes`` aligns messages, ``call_changes`` compares
two calls, and ``chosen`` reads the user's choice, such as ``2..3/score``. No I/O: the CLI and the page
share it.
"""
