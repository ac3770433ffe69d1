"""One module per protocol, each with a `router`."""
