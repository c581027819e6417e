"""Training and measuring the models of `modeling_sim`: thin commands, and what they share. Run from a checkout."""
