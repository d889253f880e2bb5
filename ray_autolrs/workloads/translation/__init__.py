"""Translation with the Transformer of "Attention is all you need"."""
