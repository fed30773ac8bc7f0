"""SeG-SR: the published network, our variant of it, and segsr-lite."""
