"""Where files are timed: this machine, another one over ssh, and facts about both."""
