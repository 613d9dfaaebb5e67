"""A sample project built on the spot, and what a cache does for it: `copick demo`."""
