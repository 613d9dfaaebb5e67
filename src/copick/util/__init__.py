"""Small leaf modules that everything may use."""
