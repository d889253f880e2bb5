"""What is to be known of a GPU, on a machine without Ray and without a network; see run.sh."""
