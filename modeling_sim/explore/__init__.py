"""The explorer: a local page to see and hear what the dimensions of a model do."""
