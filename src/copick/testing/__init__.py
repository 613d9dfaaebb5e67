"""What copick ships for testing code that uses it, and itself."""
