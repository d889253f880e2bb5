"""The method itself, as pure code: it knows neither Ray nor a training loop."""
