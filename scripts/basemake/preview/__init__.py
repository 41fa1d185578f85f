"""Pages that show maps in a browser, and what they draw besides imagery."""
