"""How far predictions can be relied on: calibration, and photos that are unlike the training photos."""
