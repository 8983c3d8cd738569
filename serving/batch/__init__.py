"""Batch scoring: how tables are read, scored in parts that a kill does not lose, and written."""
