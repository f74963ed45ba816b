"""The project's version, which setup.cfg reads from here and every logit store records."""

VERSION = "0.1.0"
