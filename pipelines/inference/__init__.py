"""Labels for every point of a room or scan, and the protocols of scores."""
