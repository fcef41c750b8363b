"""The main job: a pipeline from raw text to an adapted, exported model, as a list of cached steps."""
