"""Command line: parse options, call georsr, return an exit code."""
