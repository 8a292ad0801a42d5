"""Errors that a user can mend; commands show them as one line, without a traceback."""


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, where, and what to do."""


class ConfigError(UserError):
    """A flag, or a combination of flags, that cannot work. The message names the flag, its value and what is valid."""


class InstallError(UserError, ImportError):
    """A package that is missing or cannot be used. It is an ImportError too, as libraries expect of an import."""


class VideoError(Exception):
    """This one video cannot be used; the message is the reason, without its name."""
