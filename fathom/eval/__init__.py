"""The YZ Index: seeded items, judges that are rules, a runner for any endpoint, and the report."""
