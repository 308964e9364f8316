"""What trains: batches of views, and what a run does beside training (keep, measure, watch, show)."""
