"""What a run does beside training: keep, measure, judge, show."""
