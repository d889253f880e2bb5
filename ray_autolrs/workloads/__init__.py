"""Models and data of the jobs: what a `TrainingTask` is built from. They know no Ray."""
