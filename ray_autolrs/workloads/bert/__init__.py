"""BERT's pre-training: masked words and next sentences."""
