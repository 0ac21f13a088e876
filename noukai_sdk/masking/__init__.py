"""Find secrets and personal data in values and texts, and mask them.

Cassette files and the backend's capture mode ``redacted`` share these rules, so a call that held a
secret equals its recording once both are masked. Knows nothing of the client or of the backend.
"""
