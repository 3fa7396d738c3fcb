"""The commands: each turns what was typed into options, calls, and shows the result.

The pipeline, and with it torch, is imported inside the commands, so that ``--help`` is instant.
"""
