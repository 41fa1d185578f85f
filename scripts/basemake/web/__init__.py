"""Data from outside: HTTP sessions, credentials, downloads, STAC searches and items."""
