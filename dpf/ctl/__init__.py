"""The subcommands of ``dpfctl``."""
