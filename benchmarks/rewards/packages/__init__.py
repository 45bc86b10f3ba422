"""The sides of the reward benchmark: each module runs as a process of its own, in the environment that it needs."""
