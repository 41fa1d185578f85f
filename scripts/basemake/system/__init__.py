"""The machine and the working directory: whole files, logs, shared state, cores, memory."""
