"""SeG-SR: the published network and our own variant of it."""
