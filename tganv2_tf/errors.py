"""Errors that a user can fix; commands show them as one line, without a traceback."""


class UserError(Exception):
    """Invalid input. The message is one line: what is wrong, where, and what to do."""


class ConfigError(UserError):
    """An invalid flag or combination of flags. The message names the flag, its value and what is valid."""


class InstallError(UserError, ImportError):
    """A package is missing or unusable. Also an ImportError, so that libraries can handle it."""


class VideoError(Exception):
    """A video is unusable. The message is the reason, without the video's name."""
