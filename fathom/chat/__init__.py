"""Talking to a model in a terminal: to a service by its URL and key, or to a local model. Conversations are files that the chat page reads too."""
