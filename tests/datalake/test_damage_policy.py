"""What a job on a local lake does without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_job_on_a_local_lake_imports_no_client_of_s3(tmp_path: Path) -> None:
    """A machine that has a GPU and no boto3 trains, too."""
    code = (
        "import sys; from datalake import Lake; from datalake.maintenance.damage_policy import Repairer; "
        f"lake = Lake.open({str(tmp_path)!r}); assert Repairer().retrying(lake) is lake; "
        f"Repairer().open({str(tmp_path)!r}); print(sorted({{'boto3', 's3fs'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
