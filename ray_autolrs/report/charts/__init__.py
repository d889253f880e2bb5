"""What the page draws: each chart is a function from a run to a :class:`~.chart.Chart`."""
