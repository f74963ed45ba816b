"""The subcommands of `dlkdd`: they convert arguments and call what does the work."""
