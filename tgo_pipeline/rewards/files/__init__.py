"""Which files each reward needs, and the official releases that they come from."""
