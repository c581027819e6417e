"""The commands, one file each: their flags, and the functions that they connect."""
