"""The version of the package. Its own file, so that every room can import it."""

VERSION = "0.1.0"
