"""Putting finished maps where browsers reach them: a bucket, or a web server's folder."""
