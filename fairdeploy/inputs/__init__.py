"""What the user brings: a model, images, a project file, a target profile; checked once, here."""
