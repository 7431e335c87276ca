"""A run told to people: nothing here measures, and nothing here resamples."""
