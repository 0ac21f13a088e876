"""The paths of the wire contract: read a request, call the service, return a response."""
