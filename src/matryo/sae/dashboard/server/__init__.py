"""The dashboard's server: an ASGI application over one index."""
