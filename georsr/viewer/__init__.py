"""Show an output beside its source in a browser, by a server on this computer."""
