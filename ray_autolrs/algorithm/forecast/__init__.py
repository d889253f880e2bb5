"""What a probe promises: from a loss series to a predicted loss."""
