"""Small modules: leaves that everything may use, and what plugins and scripts import."""
