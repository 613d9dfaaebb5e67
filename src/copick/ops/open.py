"""The openers of `copick`, under the name that copick 1.x gives them."""

from copick import from_file, from_string, new_config
from copick.impl.cryoet_data_portal import from_czcdp_datasets

__all__ = ["from_czcdp_datasets", "from_file", "from_string", "new_config"]
