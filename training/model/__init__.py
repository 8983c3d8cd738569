"""The code that travels inside a registered model: it imports nothing else of this project."""
