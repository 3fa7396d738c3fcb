"""Networks of other packages, through the command line as their users would take it."""
