"""The page: a thin client of the server, which talks to it over HTTP and loads no model."""
