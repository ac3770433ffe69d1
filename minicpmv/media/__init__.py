"""Pictures and videos from paths, URLs, bytes and base64 text."""
