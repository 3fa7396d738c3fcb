"""What the user gets to read: ``report.json`` for scripts and ``report.html`` for people."""
