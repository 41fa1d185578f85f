"""Choosing a look: digital numbers to look at, places worth looking at, and how colours spread."""
