"""Crash-safe state on the device: who it is, what it takes part in, and what may have left it.

The journal is one small document that is replaced whole (written beside, synced, renamed, the folder synced); large
vectors and reports are files of their own, written before the document names them. So a process killed at any instant,
or a full disk, leaves the state before or after a change, and nothing between. One process holds the folder.

What a restart answers, and what it cannot know:

* Damage: any changed byte, and any file that is gone, is found by a digest.
* Rollback: each document names the one before it, and the newest is noted in a second file and, where the app gives
  one, in a `Witness` outside the folder. An old journal put back alone is found. A whole folder put back is found with
  a witness only; without one it is not, and the device may train and report for rounds that it took part in before:
  the coordinator then refuses a second report for a participation, or gives the first one's receipt.
* After a restart the device enrols as a new one. Of its past it keeps one thing: the restart itself counts as a
  participation when the time between two is kept and, for a year, under every plan that bounds how often a device takes
  part (`edge_runtime.limits`).
* `flock`, `fsync` and `rename` must do what POSIX says; deleted files are unlinked and not overwritten, so that without
  a key their bytes may be found on the raw flash.
"""

from edge_runtime.journal.folder import StateFolder, open_folder
from edge_runtime.journal.journal import Journal, Witness
from edge_runtime.journal.opening import open_journal, peek
from edge_runtime.journal.participation import Phase, Progress
from edge_runtime.journal.sealing import AppKey
from edge_runtime.journal.state import State

__all__ = [
    "AppKey",
    "Journal",
    "Phase",
    "Progress",
    "State",
    "StateFolder",
    "Witness",
    "open_folder",
    "open_journal",
    "peek",
]
