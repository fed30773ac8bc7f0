"""segsr-lite: the idea of SeG-SR at the cost of a small convolutional network."""
