"""One threshold against one for each prompt; how long the adequacy report takes, and how often it is right."""
