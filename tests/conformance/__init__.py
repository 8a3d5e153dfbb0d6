"""A kit of cases in JSON that any worker's command line can be held against. See README.md."""
