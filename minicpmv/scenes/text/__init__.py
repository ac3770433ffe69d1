"""Words, documents, tables and charts: what is drawn with text."""
