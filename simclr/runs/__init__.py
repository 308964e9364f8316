"""From a configuration to objects and back: what a run is, where it lives, what it leaves."""
