"""Tables and lines for people, each a function of the run's log alone."""
