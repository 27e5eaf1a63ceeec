"""Every setting of the coordinator, read once from `EDGEWISE_*` and a file, and passed down."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from coordinator.core.privacy.opinions import SecondOpinions
from coordinator.core.privacy.settings import SMALLEST_COHORT
from coordinator.logs import AccessLog, LogForm

PREFIX = "EDGEWISE_"
CONFIG = "EDGEWISE_CONFIG"
"""Names the settings file; a variable of the environment wins over it."""
_OTHERS = (CONFIG, "EDGEWISE_ADDRESS", "EDGEWISE_TOKEN_FILE")
"""Options of commands."""
_OTHERS_PREFIXES = ("EDGEWISE_TEST_", "EDGEWISE_DEVICE_")


class Settings(BaseSettings):
    """Defaults run everything embedded: one SQLite file and one folder, on loopback."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    data_dir: Path = Field(Path("edgewise-data"), description="Folder of the embedded database, blobs and keys.")
    database_url: str = Field("", repr=False, description="SQLAlchemy address; empty for SQLite in the data folder.")
    database_connections: int = Field(
        20, ge=2, le=1000, description="Connections to PostgreSQL that one process holds at most."
    )
    blob_dir: Path | None = Field(None, description="Folder of the blobs; unset for `blobs` in the data folder.")
    authority_key_file: Path | None = Field(
        None, description="Key of the enrolment authority; unset for `authority.key` in the data folder."
    )
    blob_url: str = Field("", description="`s3://bucket/prefix` of the blobs; empty for a folder.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8470, ge=0, le=65535, description="Port to listen on.")
    hold_s: float = Field(20.0, ge=0, le=45, description="How long a check-in may be held open for an assignment.")
    check_ins_per_s: float = Field(
        1000.0,
        gt=0,
        le=1e6,
        description="Check-ins a second that all processes together can take; pacing aims below it.",
    )
    most_waiting: int = Field(
        1024, ge=1, le=1_000_000, description="Check-ins that wait in this process; others are turned away, as `busy`."
    )
    drain_s: float = Field(
        0.0, ge=0, le=300, description="How long a process that is to stop still listens, while `/readyz` says so."
    )
    worker_interval_s: float = Field(
        0.1,
        gt=0,
        le=60,
        description="Seconds between two looks at open rounds; on SQLite, where requests wake it, up to 10 times.",
    )
    chunk_reports: int = Field(16, ge=1, le=10_000, description="Reports added up in one step of the worker.")
    lease_s: float = Field(
        15.0, ge=1, le=600, description="A worker that is silent for so long loses its tasks to the next one."
    )
    keep_rounds_days: float = Field(
        90.0, ge=1, le=36_500, description="Who took part in a round is forgotten so long after its end."
    )
    sweep_after_s: float = Field(
        86_400.0, ge=600, le=1e9, description="Blobs that no row names are swept when they are so old."
    )
    smallest_cohort: int = Field(
        SMALLEST_COHORT, ge=2, le=1_000_000, description="No task that claims privacy addresses fewer devices."
    )
    second_opinion: SecondOpinions = Field(
        SecondOpinions.INSTALLED,
        description="By Opacus, on claims: `installed` asks where it is, `required` claims nothing without; `never`.",
    )
    log_form: LogForm = Field(LogForm.TEXT, description="Of the log on standard error: `text` or `json`.")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="From which level on.")
    access_log: AccessLog = Field(AccessLog.OPERATORS, description="Requests in the log: `none`, `operators` or `all`.")
    metrics_token: str = Field("", repr=False, description="Asked for at `/metrics`; empty: loopback alone gets them.")
    free_disk_bytes: int = Field(64 << 20, ge=0, description="Blobs that would leave less than this free are refused.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given in code, then the environment, then the TOML file that `EDGEWISE_CONFIG` names."""
        named = os.environ.get(CONFIG)
        file = () if not named else (TomlConfigSettingsSource(settings_cls, toml_file=Path(named)),)
        return (init_settings, env_settings, *file)

    def sqlalchemy_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'coordinator.sqlite'}"

    def blob_folder(self) -> Path:
        return self.blob_dir or self.data_dir / "blobs"

    def key_file(self) -> Path:
        """The coordinator's signing key: 64 hex digits, readable by its owner alone."""
        return self.data_dir / "coordinator.key"

    def authority_file(self) -> Path:
        """The key of the enrolment authority, which certifies devices: 64 hex digits, as the coordinator's."""
        return self.authority_key_file or self.data_dir / "authority.key"

    def token_file(self) -> Path:
        """The operator token that `init` wrote; the database holds only its SHA-256."""
        return self.data_dir / "operator.token"


def unknown_variables() -> list[tuple[str, str | None]]:
    """Variables `EDGEWISE_*` that no setting has, each with the name that was probably meant."""
    known = [name.upper() for name in Settings.model_fields]
    given = [name for name in os.environ if name.startswith(PREFIX) and not name.startswith(_OTHERS_PREFIXES)]
    strange = sorted(name for name in given if name not in _OTHERS and name.upper().removeprefix(PREFIX) not in known)
    meant = {name: difflib.get_close_matches(name.upper().removeprefix(PREFIX), known, 1, 0.7) for name in strange}
    return [(name, f"{PREFIX}{meant[name][0]}" if meant[name] else None) for name in strange]
