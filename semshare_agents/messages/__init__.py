"""From a caller's messages to a prompt that the model's own chat template renders, with nothing lost on the way."""
