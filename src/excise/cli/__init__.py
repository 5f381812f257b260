"""The command line: parse, call, render. Only this room prints, and nothing here computes."""
