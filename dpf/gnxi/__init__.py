"""gNMI and gNOI as DMS speaks them: the generated stubs, and what client and server agree on besides."""
