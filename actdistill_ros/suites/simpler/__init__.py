"""SIMPLER: the rules between a policy's actions and the simulated WidowX and Google robots."""
