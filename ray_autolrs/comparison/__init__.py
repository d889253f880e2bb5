"""AutoLRS beside what people do without it: baselines, plain training, runs and their table."""
