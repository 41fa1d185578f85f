"""Bytes from elsewhere: HTTP sessions, credentials, downloads, STAC searches and items."""
