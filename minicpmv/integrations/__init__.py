"""Integration with other libraries."""
