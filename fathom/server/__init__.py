"""The service: HTTP, accounts, the page. Text and money at the door, an engine behind it."""
