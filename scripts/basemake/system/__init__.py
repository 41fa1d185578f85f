"""The machine and the working directory: files written whole, logs, locks, cores and memory."""
