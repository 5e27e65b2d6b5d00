"""Real processes, real kills: seeded rounds of faults under traffic, whose histories go to the simulator's checkers."""
