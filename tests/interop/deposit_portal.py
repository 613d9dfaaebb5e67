"""Link one's own picks in a project over the data portal: what the runs are called, and what cannot be linked.

python deposit_portal.py CONFIG OUT URL
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

NAMES: dict[str, dict[str, str]] = {
    "plain": {},
    "prefix": {"run_name_prefix": "p_"},
    "regex": {"run_name_regex": "(.).*"},
    "both": {"run_name_prefix": "p_", "run_name_regex": "(.+)"},
}


def deposited(config: str, folder: Path) -> Any:
    import copick
    from copick.ops.deposit import deposit, deposit_run

    root = copick.from_file(config)
    for run in root.runs:
        picks = run.new_picks("first", "7", "me")
        picks.from_numpy([[1.0, 2.0, 3.0]])
        picks.store()
    names = [run.name for run in root.runs]
    for name, options in NAMES.items():
        for run in names:
            deposit(config, str(folder / name), [run], **options, picks_uris=["first:me/7"])
    for run in root.runs:
        deposit_run(run, str(folder / "alone"), picks_uris=["first:me/7"])
    found: dict[str, Any] = {
        "links": sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink())
    }
    for run in root.runs:
        uris = [f"*:{each.user_id}/{each.session_id}" for each in run.picks if each.user_id != "me"]
        result = deposit_run(run, str(folder / "all"), picks_uris=uris)
        found[run.name] = [result["processed"], bool(result["errors"]), len(uris)]
    return found


if __name__ == "__main__":
    import cryoet_data_portal._client

    logging.disable(logging.CRITICAL)
    cryoet_data_portal._client.DEFAULT_URL = sys.argv[3]  # 1.31 knows no other way
    os.environ["NO_PROXY"] = "127.0.0.1,localhost"
    out = Path(sys.argv[2])
    out.write_text(json.dumps(deposited(sys.argv[1], out.with_name("links"))))
