"""The command line: `copick`."""
