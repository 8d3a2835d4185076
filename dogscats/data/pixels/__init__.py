"""How photos look to a network: decoding, transforms, and smaller copies of large photos."""
