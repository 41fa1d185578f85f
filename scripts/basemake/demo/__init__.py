"""The simulated world that the demo maps, as tiles and STAC items."""
