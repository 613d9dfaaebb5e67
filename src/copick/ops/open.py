"""The openers of `copick`, under the name that copick 1.x gives them."""

from copick import from_file, from_string, new_config

__all__ = ["from_file", "from_string", "new_config"]
