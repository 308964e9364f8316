"""Learning-rate schedules, and groups of parameters."""
