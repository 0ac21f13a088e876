"""What the process runs flows on: one event loop for blocking calls, worker threads, logging."""
