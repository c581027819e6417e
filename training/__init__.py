"""Launchers for a checkout; what they run is in `modeling_sim.commands`."""
