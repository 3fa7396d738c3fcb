"""What stands in a result folder: written whole, listed, loaded again."""
