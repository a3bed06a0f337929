"""One module for each of the command's subcommands: `add_arguments` declares its options, `run` does the work."""
