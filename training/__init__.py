"""Launchers of the commands in `modeling_sim.commands` for a checkout."""
