"""The command line: parse, call georsr once, exit."""
