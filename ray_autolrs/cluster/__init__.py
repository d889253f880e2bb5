"""The Ray shell: the driver, the workers' loop and the search actor."""
