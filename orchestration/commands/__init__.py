"""The command line, a file per group; each command only reads its arguments, calls one function and prints."""
