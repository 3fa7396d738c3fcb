"""Parts that several runs share."""
