"""`tgo doctor`: what would keep a run from working here, found before anything is spent, and what to do about it.

`examine(path)` gives the findings in groups; a check that breaks is a finding itself. Without a source on the
hub nothing is asked of the network, and of the hub only what it says about files: none is downloaded.
"""

from tgo_pipeline.doctor.examine import FindingGroup, examine
from tgo_pipeline.doctor.findings import Finding

__all__ = ["Finding", "FindingGroup", "examine"]
