"""Jobs: runs in the background, on durable queues."""
