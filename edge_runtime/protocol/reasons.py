"""Why nothing was trained, counted or released: the only list of reason codes.

Shared by the device, the API and the reports. A code never changes its meaning and is never removed.
"""

from enum import StrEnum


class Wait(StrEnum):
    """Why a check-in was answered with a retry window and not with an assignment."""

    NO_TASK = "no-task"
    SELECTION_PENDING = "selection-pending"
    NOT_SELECTED = "not-selected"
    ROUND_IN_PROGRESS = "round-in-progress"
    TOO_FEW_EXAMPLES = "too-few-examples"
    REPORTED = "reported"
    PARTICIPATED_RECENTLY = "participated-recently"
    """The minimum separation between participations is not over."""
    TASK_PAUSED = "task-paused"
    BUSY = "busy"
    """The coordinator has more check-ins than it can answer; nothing was looked at."""


class Outcome(StrEnum):
    """How a participation ended when it was not with a counted report."""

    IN_USE = "in-use"
    NOT_CHARGING = "not-charging"
    BATTERY_LOW = "battery-low"
    NETWORK_METERED = "network-metered"
    NETWORK_LOST = "network-lost"
    OVERHEATED = "overheated"
    STORAGE_LOW = "storage-low"
    TIME_LIMIT = "time-limit"
    PROCESS_KILLED = "process-killed"
    BUNDLE_REFUSED = "bundle-refused"
    CHECKPOINT_REFUSED = "checkpoint-refused"
    PLAN_REFUSED = "plan-refused"
    EXAMPLES_REFUSED = "examples-refused"
    NON_FINITE_TRAINING = "non-finite-training"
    INTERPRETER_FAILED = "interpreter-failed"
    WENT_SILENT = "went-silent"
    """The device checked in anew without having reported."""
    DEADLINE_PASSED = "deadline-passed"
    """The coordinator closed the round first."""
    POWER_SAVER = "power-saver"
    QUIET_HOURS = "quiet-hours"
    DAILY_SECONDS_SPENT = "daily-seconds-spent"
    DAILY_BYTES_SPENT = "daily-bytes-spent"
    DAILY_BATTERY_SPENT = "daily-battery-spent"
    SLICE_ENDED = "slice-ended"
    """The time of the last slice was over, and there was no later one."""
    SYSTEM_STOPPED = "system-stopped"
    """The operating system asked the app to stop its background work."""
    OPTED_OUT = "opted-out"
    """The owner took the device out."""
    SWITCHED_OFF = "switched-off"
    """An operator switched the population off."""
    QUARANTINED = "quarantined"
    """The device was seen to harm groups."""
    GROUP_REFUSED = "group-refused"
    """This device takes no part in such a group: below its app's floors, not certified, or it was contradicted."""
    GROUP_ENDED = "group-ended"
    """The group came to nothing after this device's masked report existed: there is no second one."""
    POPULATION_TOO_SMALL = "population-too-small"
    """Too few devices had trained to form a group in which their reports are hidden."""


class Blocker(StrEnum):
    """Why a device does not train now, by cost to the owner: the first that holds is named.

    A code that is also an `Outcome` means the same there. `edge_runtime.schedule` says when each holds.
    """

    IN_USE = "in-use"
    OVERHEATED = "overheated"
    POWER_SAVER = "power-saver"
    BATTERY_LOW = "battery-low"
    NOT_CHARGING = "not-charging"
    NETWORK_METERED = "network-metered"
    STORAGE_LOW = "storage-low"
    NETWORK_LOST = "network-lost"
    QUIET_HOURS = "quiet-hours"
    DAILY_SECONDS_SPENT = "daily-seconds-spent"
    DAILY_BYTES_SPENT = "daily-bytes-spent"
    DAILY_BATTERY_SPENT = "daily-battery-spent"
    JUST_INSTALLED = "just-installed"
    TOO_SOON = "too-soon"
    """The interval since the last visit is not over."""
    PARTICIPATED_RECENTLY = "participated-recently"
    """The minimum separation between participations is not over."""
    PARTICIPATIONS_SPENT = "participations-spent"
    """This device took part as often as it may."""
    SLICE_ENDED = "slice-ended"
    """Of a running slice only: its time is over."""
    SYSTEM_STOPPED = "system-stopped"
    """Of a running slice only: the operating system asked the app to stop."""
    APPOINTMENT_AHEAD = "appointment-ahead"
    """What was trained waits, sealed, for the time at which its group forms."""


class Abandonment(StrEnum):
    """Why a round was abandoned."""

    TOO_FEW_DEVICES = "too-few-devices"
    TOO_FEW_REPORTS = "too-few-reports"
    TASK_CANCELLED = "task-cancelled"
    STORAGE_DAMAGED = "storage-damaged"
    """What was stored for it can no longer be read as it was written."""
    UPDATE_NOT_FINITE = "update-not-finite"
    """Its sum would have made a weight infinite."""
    TASK_PAUSED = "task-paused"
    """Its task was paused while the round still looked for devices."""
    TASK_COMPLETED = "task-completed"
    """Its task met a stop condition first."""
    TOO_STALE = "too-stale"
    """Its sum waited in the buffer until the model had gone too far ahead."""
    POPULATION_TOO_SMALL = "population-too-small"
    """Too few devices came together for a group that sums securely."""


class GroupEnd(StrEnum):
    """Why a group that was to sum securely came to nothing."""

    TOO_FEW_JOINED = "too-few-joined"
    TOO_FEW_SHARED = "too-few-shared"
    TOO_FEW_SURVIVORS = "too-few-survivors"
    """Too few masked reports came."""
    TOO_FEW_CONFIRMED = "too-few-confirmed"
    TOO_FEW_REVEALED = "too-few-revealed"
    """Too few right shares came for the sum to be opened."""
    INCONSISTENT_SHARES = "inconsistent-shares"
    """A member had shared another secret than it committed to; it is named."""
    ZERO_LANES = "zero-lanes"
    """Somebody used another model, or lied: nobody can tell who."""
    NOT_CHARGED = "not-charged"
    """The ledger does not allow its sum to be opened."""
    STORAGE_DAMAGED = "storage-damaged"
    ROUND_ENDED = "round-ended"
    """Its round was abandoned."""
